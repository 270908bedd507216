package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/units"
	"github.com/vmware/govmomi/vim25/types"
)

// sparseMagic begins a SparseExtentHeader (VMware Virtual Disk Format 5.0, "Hosted Sparse Extent Header").
const sparseMagic = "KDMV"

// layDisks copies dir/VM/FILE into the folder of each VM that has such a folder, and gives the VM's disks the capacity that
// the sparse extents found there announce: vcsim itself knows nothing of what a disk file holds.
func layDisks(ctx *simulator.Context, dir string) error {
	for _, entity := range ctx.Map.All("VirtualMachine") {
		vm := entity.(*simulator.VirtualMachine)
		from := filepath.Join(dir, vm.Name)
		if _, err := os.Stat(from); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err := layMachine(ctx, vm, from); err != nil {
			return fmt.Errorf("%s: %w", vm.Name, err)
		}
	}
	return nil
}

func layMachine(ctx *simulator.Context, vm *simulator.VirtualMachine, from string) error {
	entries, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	to, err := folderOf(ctx, vm)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if err = copyFile(filepath.Join(from, entry.Name()), filepath.Join(to, entry.Name())); err != nil {
			return err
		}
	}
	return setCapacities(vm, to)
}

// folderOf is the local directory that holds the VM's files.
func folderOf(ctx *simulator.Context, vm *simulator.VirtualMachine) (string, error) {
	var file object.DatastorePath
	file.FromString(vm.Config.Files.VmPathName)
	for _, ref := range vm.Datastore {
		if ds := ctx.Map.Get(ref).(*simulator.Datastore); ds.Name == file.Datastore {
			return filepath.Join(ds.Summary.Url, filepath.Dir(file.Path)), nil
		}
	}
	return "", fmt.Errorf("no datastore %s", file.Datastore)
}

func copyFile(from, to string) error {
	source, err := os.Open(from)
	if err != nil {
		return err
	}
	defer source.Close()
	target, err := os.Create(to)
	if err != nil {
		return err
	}
	_, err = io.Copy(target, source)
	return errors.Join(err, target.Close())
}

func setCapacities(vm *simulator.VirtualMachine, folder string) error {
	devices := object.VirtualDeviceList(vm.Config.Hardware.Device)
	for _, device := range devices.SelectByType((*types.VirtualDisk)(nil)) {
		disk := device.(*types.VirtualDisk)
		backing, ok := disk.Backing.(types.BaseVirtualDeviceFileBackingInfo)
		if !ok {
			continue
		}
		var file object.DatastorePath
		file.FromString(backing.GetVirtualDeviceFileBackingInfo().FileName)
		capacity, err := sparseCapacity(filepath.Join(folder, filepath.Base(file.Path)))
		if err != nil {
			return err
		}
		if capacity != 0 {
			disk.CapacityInBytes = capacity
			disk.CapacityInKB = capacity / units.KB
		}
	}
	return nil
}

// sparseCapacity is the guest's bytes of a sparse extent, 0 if the file is none.
func sparseCapacity(name string) (int64, error) {
	file, err := os.Open(name)
	if err != nil {
		return 0, err
	}
	defer file.Close()
	header := make([]byte, 20)
	if _, err = io.ReadFull(file, header); err != nil || string(header[:4]) != sparseMagic {
		return 0, nil // shorter than a header, or no sparse extent
	}
	return int64(binary.LittleEndian.Uint64(header[12:])) * 512, nil
}
