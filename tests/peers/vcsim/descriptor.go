package main

import (
	"encoding/xml"
	"fmt"
	"strings"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// CIM resource types of the hardware items (DSP0243, CIM_ResourceAllocationSettingData.ResourceType).
const (
	processor = 3
	memory    = 4
	ide       = 5
	scsi      = 6
	ethernet  = 10
	diskDrive = 17

	otherStorage = 20
)

type describingManager struct {
	simulator.OvfManager
}

// CreateDescriptor writes the OVF of a VM, or of the snapshot named, for the files that the client received.
func (m *describingManager) CreateDescriptor(ctx *simulator.Context, req *types.CreateDescriptor) soap.HasFault {
	body := new(methods.CreateDescriptorBody)
	vm, ok := ctx.Map.Get(req.Obj).(*simulator.VirtualMachine)
	if !ok {
		body.Fault_ = simulator.Fault("", &types.ManagedObjectNotFound{Obj: req.Obj})
		return body
	}
	config := vm.Config
	if ref := req.Cdp.Snapshot; ref != nil {
		snapshot, ok := ctx.Map.Get(*ref).(*simulator.VirtualMachineSnapshot)
		if !ok || snapshot.Vm != vm.Self {
			body.Fault_ = simulator.Fault("", &types.ManagedObjectNotFound{Obj: *ref})
			return body
		}
		config = &snapshot.Config
	}
	text, err := describe(ctx, vm, config, req.Cdp)
	if err != nil {
		body.Fault_ = simulator.Fault(err.Error(), &types.InvalidArgument{InvalidProperty: "ovfFiles"})
		return body
	}
	body.Res = &types.CreateDescriptorResponse{
		Returnval: types.OvfCreateDescriptorResult{OvfDescriptor: text},
	}
	return body
}

type envelope struct {
	XMLName  xml.Name  `xml:"Envelope"`
	Default  string    `xml:"xmlns,attr"`
	Ovf      string    `xml:"xmlns:ovf,attr"`
	Rasd     string    `xml:"xmlns:rasd,attr"`
	Vssd     string    `xml:"xmlns:vssd,attr"`
	Files    []file    `xml:"References>File"`
	DiskInfo string    `xml:"DiskSection>Info"`
	Disks    []disk    `xml:"DiskSection>Disk"`
	NetInfo  string    `xml:"NetworkSection>Info"`
	Networks []network `xml:"NetworkSection>Network"`
	System   system    `xml:"VirtualSystem"`
}

type file struct {
	ID   string `xml:"ovf:id,attr"`
	Href string `xml:"ovf:href,attr"`
	Size int64  `xml:"ovf:size,attr,omitempty"`
}

type disk struct {
	ID       string `xml:"ovf:diskId,attr"`
	File     string `xml:"ovf:fileRef,attr"`
	Capacity int64  `xml:"ovf:capacity,attr"`
	Units    string `xml:"ovf:capacityAllocationUnits,attr"`
	Format   string `xml:"ovf:format,attr"`
}

type network struct {
	Name        string `xml:"ovf:name,attr"`
	Description string `xml:"Description"`
}

type system struct {
	ID       string          `xml:"ovf:id,attr"`
	Info     string          `xml:"Info"`
	Name     string          `xml:"Name"`
	Guest    operatingSystem `xml:"OperatingSystemSection"`
	Hardware hardware        `xml:"VirtualHardwareSection"`
}

type operatingSystem struct {
	ID   int    `xml:"ovf:id,attr"`
	Info string `xml:"Info"`
}

type hardware struct {
	Info   string         `xml:"Info"`
	System virtualSetting `xml:"System"`
	Items  []item         `xml:"Item"`
}

type virtualSetting struct {
	ElementName string `xml:"vssd:ElementName"`
	InstanceID  int    `xml:"vssd:InstanceID"`
	Type        string `xml:"vssd:VirtualSystemType"`
}

// item has its children in the alphabetical order that the schema asks for.
type item struct {
	Address         string `xml:"rasd:Address,omitempty"`
	AddressOnParent string `xml:"rasd:AddressOnParent,omitempty"`
	Units           string `xml:"rasd:AllocationUnits,omitempty"`
	Connection      string `xml:"rasd:Connection,omitempty"`
	ElementName     string `xml:"rasd:ElementName"`
	HostResource    string `xml:"rasd:HostResource,omitempty"`
	InstanceID      int32  `xml:"rasd:InstanceID"`
	Parent          int32  `xml:"rasd:Parent,omitempty"`
	SubType         string `xml:"rasd:ResourceSubType,omitempty"`
	Type            int    `xml:"rasd:ResourceType"`
	Quantity        int64  `xml:"rasd:VirtualQuantity,omitempty"`
}

func describe(ctx *simulator.Context, vm *simulator.VirtualMachine, config *types.VirtualMachineConfigInfo, cdp types.OvfCreateDescriptorParams) (string, error) {
	name := cdp.Name
	if name == "" {
		name = vm.Name
	}
	e := &envelope{
		Default:  "http://schemas.dmtf.org/ovf/envelope/1",
		Ovf:      "http://schemas.dmtf.org/ovf/envelope/1",
		Rasd:     "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData",
		Vssd:     "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_VirtualSystemSettingData",
		DiskInfo: "Virtual disk information",
		NetInfo:  "The list of logical networks",
		System: system{
			ID:    name,
			Info:  "A virtual machine",
			Name:  name,
			Guest: operatingSystem{ID: 1, Info: "The kind of installed guest operating system"},
			Hardware: hardware{
				Info:   "Virtual hardware requirements",
				System: virtualSetting{ElementName: "Virtual Hardware Family", Type: config.Version},
			},
		},
	}
	e.add(item{Type: processor, InstanceID: 1, ElementName: "CPUs", Units: "hertz * 10^6", Quantity: int64(config.Hardware.NumCPU)})
	e.add(item{Type: memory, InstanceID: 2, ElementName: "Memory", Units: "byte * 2^20", Quantity: int64(config.Hardware.MemoryMB)})
	devices := object.VirtualDeviceList(config.Hardware.Device)
	e.addControllers(devices)
	if err := e.addDisks(vm, devices, cdp.OvfFiles); err != nil {
		return "", err
	}
	e.addNetworks(ctx, devices)
	text, err := xml.MarshalIndent(e, "", "  ")
	return xml.Header + string(text) + "\n", err
}

func (e *envelope) add(i item) {
	e.System.Hardware.Items = append(e.System.Hardware.Items, i)
}

// addControllers lists the disk controllers; the type and subtype of each are those that vSphere writes.
func (e *envelope) addControllers(devices object.VirtualDeviceList) {
	for _, device := range devices {
		kind, subType := controllerType(device)
		if kind == 0 {
			continue
		}
		controller := device.(types.BaseVirtualController).GetVirtualController()
		e.add(item{
			Type: kind, SubType: subType, InstanceID: controller.Key, ElementName: devices.Name(device),
			Address: fmt.Sprint(controller.BusNumber),
		})
	}
}

func controllerType(device types.BaseVirtualDevice) (int, string) {
	switch device.(type) {
	case *types.ParaVirtualSCSIController:
		return scsi, "VirtualSCSI"
	case *types.VirtualBusLogicController:
		return scsi, "buslogic"
	case *types.VirtualLsiLogicSASController:
		return scsi, "lsilogicsas"
	case *types.VirtualLsiLogicController:
		return scsi, "lsilogic"
	case *types.VirtualIDEController:
		return ide, ""
	case *types.VirtualAHCIController:
		return otherStorage, "vmware.sata.ahci"
	case *types.VirtualNVMEController:
		return otherStorage, "vmware.nvme.controller"
	}
	return 0, ""
}

// addDisks matches the client's files with the VM's disks by the lease's device keys: "/vm-1/disk:N" is the N-th disk.
func (e *envelope) addDisks(vm *simulator.VirtualMachine, devices object.VirtualDeviceList, files []types.OvfFile) error {
	disks := make(map[string]*types.VirtualDisk)
	kinds := make(map[string]int)
	for _, device := range devices.SelectByType((*types.VirtualDisk)(nil)) {
		kind := devices.Type(device)
		disks[fmt.Sprintf("/%s/%s:%d", vm.Self.Value, kind, kinds[kind])] = device.(*types.VirtualDisk)
		kinds[kind]++
	}
	for n, received := range files {
		source, ok := disks[received.DeviceId]
		if !ok && strings.HasSuffix(received.Path, ".vmdk") {
			return fmt.Errorf("no device %q", received.DeviceId)
		}
		e.Files = append(e.Files, file{ID: fmt.Sprintf("file%d", n+1), Href: received.Path, Size: received.Size})
		if ok {
			e.addDisk(source, devices.Name(source), n+1)
		}
	}
	return nil
}

func (e *envelope) addDisk(source *types.VirtualDisk, name string, n int) {
	id := fmt.Sprintf("vmdisk%d", n)
	e.Disks = append(e.Disks, disk{
		ID: id, File: fmt.Sprintf("file%d", n), Capacity: source.CapacityInKB, Units: "byte * 2^10",
		Format: "http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized",
	})
	drive := item{
		Type: diskDrive, InstanceID: source.Key, ElementName: name, HostResource: "ovf:/disk/" + id, Parent: source.ControllerKey,
	}
	if source.UnitNumber != nil {
		drive.AddressOnParent = fmt.Sprint(*source.UnitNumber)
	}
	e.add(drive)
}

func (e *envelope) addNetworks(ctx *simulator.Context, devices object.VirtualDeviceList) {
	listed := make(map[string]bool)
	for _, device := range devices.SelectByType((*types.VirtualEthernetCard)(nil)) {
		card := device.(types.BaseVirtualEthernetCard).GetVirtualEthernetCard()
		name := networkName(ctx, card.Backing)
		e.add(item{
			Type: ethernet, InstanceID: card.Key, ElementName: devices.Name(device), Address: card.MacAddress, Connection: name,
			SubType: cardType(device),
		})
		if !listed[name] {
			e.Networks = append(e.Networks, network{Name: name, Description: "The " + name + " network"})
			listed[name] = true
		}
	}
}

func networkName(ctx *simulator.Context, backing types.BaseVirtualDeviceBackingInfo) string {
	switch b := backing.(type) {
	case *types.VirtualEthernetCardNetworkBackingInfo:
		return b.DeviceName
	case *types.VirtualEthernetCardDistributedVirtualPortBackingInfo:
		ref := types.ManagedObjectReference{Type: "DistributedVirtualPortgroup", Value: b.Port.PortgroupKey}
		if group, ok := ctx.Map.Get(ref).(*simulator.DistributedVirtualPortgroup); ok {
			return group.Name
		}
	}
	return "none"
}

func cardType(device types.BaseVirtualDevice) string {
	switch device.(type) {
	case *types.VirtualVmxnet3:
		return "VmxNet3"
	case *types.VirtualE1000e:
		return "E1000e"
	}
	return "E1000"
}
