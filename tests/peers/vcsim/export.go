package main

import (
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// addExport gives the registry the three calls of an export that vcsim lacks. OvfManager is replaced by one that has
// CreateDescriptor. VMs and leases come and go and vcsim knows them by their type, so their ExportVm and
// HttpNfcLeaseSetManifestChecksumType are turned over to one more object.
func addExport(registry *simulator.Registry) {
	content := registry.Get(vim25.ServiceInstance).(*simulator.ServiceInstance).Content
	registry.Put(&describingManager{*registry.Get(*content.OvfManager).(*simulator.OvfManager)})
	exporter := &machineExporter{mo.OvfManager{Self: types.ManagedObjectReference{Type: "MachineExporter", Value: "exporter"}}}
	registry.Put(exporter)
	registry.Handler = func(_ *simulator.Context, method *simulator.Method) (mo.Reference, types.BaseMethodFault) {
		switch method.Name {
		case "ExportVm", "HttpNfcLeaseSetManifestChecksumType":
			method.This = exporter.Self // within a session vcsim looks the receiver up again
			return exporter, nil
		}
		return nil, nil
	}
}

// machineExporter answers ExportVm for all VMs, and the choice of a checksum for all leases; the request's own This still
// names the VM or the lease. vcsim's search by UUID panics at objects that do not embed a type of the API.
type machineExporter struct {
	mo.OvfManager
}

func (e *machineExporter) ExportVm(ctx *simulator.Context, req *types.ExportVm) soap.HasFault {
	body := new(methods.ExportVmBody)
	vm, ok := ctx.Map.Get(req.This).(*simulator.VirtualMachine)
	if !ok {
		body.Fault_ = simulator.Fault("", &types.ManagedObjectNotFound{Obj: req.This})
		return body
	}
	ctx.WithLock(vm, func() { body = exportPoweredOff(ctx, vm) })
	return body
}

// exportPoweredOff opens a lease of the kind that vcsim gives for a snapshot, here of the VM's present state, which is in no
// snapshot tree.
func exportPoweredOff(ctx *simulator.Context, vm *simulator.VirtualMachine) *methods.ExportVmBody {
	body := new(methods.ExportVmBody)
	if state := vm.Runtime.PowerState; state != types.VirtualMachinePowerStatePoweredOff {
		fault := &types.InvalidPowerState{RequestedState: types.VirtualMachinePowerStatePoweredOff, ExistingState: state}
		body.Fault_ = simulator.Fault("The attempted operation cannot be performed in the current state.", fault)
		return body
	}
	now := new(simulator.VirtualMachineSnapshot)
	now.Vm = vm.Self
	now.Config = *vm.Config
	lease := now.ExportSnapshot(ctx, new(types.ExportSnapshot)).(*methods.ExportSnapshotBody)
	body.Fault_ = lease.Fault_
	if lease.Res != nil {
		body.Res = &types.ExportVmResponse{Returnval: lease.Res.Returnval}
	}
	return body
}

// HttpNfcLeaseSetManifestChecksumType accepts what vSphere 6.7 and later accept. The manifest stays empty: vcsim has no digests
// of what it sends.
func (e *machineExporter) HttpNfcLeaseSetManifestChecksumType(_ *simulator.Context, req *types.HttpNfcLeaseSetManifestChecksumType) soap.HasFault {
	body := new(methods.HttpNfcLeaseSetManifestChecksumTypeBody)
	for _, pair := range req.DeviceUrlsToChecksumTypes {
		if pair.Value != "sha1" && pair.Value != "sha256" {
			body.Fault_ = simulator.Fault("", &types.InvalidArgument{InvalidProperty: "deviceUrlsToChecksumTypes"})
			return body
		}
	}
	body.Res = new(types.HttpNfcLeaseSetManifestChecksumTypeResponse)
	return body
}
