"""The part of the vSphere API (urn:vim25, up to 8.0.3) that the simulator speaks, as a table. ``schema.py`` reads it.

A data type or managed type is ``Name(Base): field=type ...``; an indented ``.Method(parameter=type ...) -> type``
belongs to the managed type above it. ``&X`` is a reference to a managed object, ``%X`` an enum, anything else a data
type or a primitive; ``?`` means optional, ``*`` an optional list, ``+`` a list that is always there. Names and order as
in the public API reference (https://developer.broadcom.com/xapis/vsphere-web-services-api/latest/); a field whose type
is not listed here is left out.
"""

from __future__ import annotations

from typing import Final

DATA_TYPES: Final = """
AboutInfo: name=string fullName=string vendor=string version=string patchLevel=string? build=string localeVersion=string? localeBuild=string?
    osType=string productLineId=string apiType=string apiVersion=string instanceUuid=string? licenseProductName=string? licenseProductVersion=string?
AlarmState: key=string entity=&ManagedEntity alarm=&Alarm overallStatus=%ManagedEntityStatus time=dateTime acknowledged=boolean?
    acknowledgedByUser=string? acknowledgedTime=dateTime? eventKey=int? disabled=boolean?
AuthorizationPrivilege: privId=string onParent=boolean name=string privGroupName=string
AuthorizationRole: roleId=int system=boolean name=string info=Description privilege=string*
AutoStartDefaults: enabled=boolean? startDelay=int? stopDelay=int? waitForHeartbeat=boolean? stopAction=string?
AutoStartPowerInfo: key=&VirtualMachine startOrder=int startDelay=int waitForHeartbeat=%AutoStartWaitHeartbeatSetting startAction=string
    stopDelay=int stopAction=string
CannotAccessFile(FileFault):
Capability: provisioningSupported=boolean multiHostSupported=boolean userShellAccessSupported=boolean networkBackupAndRestoreSupported=boolean?
    ftDrsWithoutEvcSupported=boolean? hciWorkflowSupported=boolean? computePolicyVersion=int? clusterPlacementSupported=boolean?
    lifecycleManagementSupported=boolean? hostSeedingSupported=boolean? scalableSharesSupported=boolean? hadcsSupported=boolean?
    configMgmtSupported=boolean?
ClusterComputeResourceSummary(ComputeResourceSummary): currentFailoverLevel=int numVmotions=int targetBalance=int? currentBalance=int? drsScore=int?
    numVmsPerDrsScoreBucket=int* currentEVCModeKey=string? currentEVCGraphicsModeKey=string? clusterMaintenanceModeStatus=string?
    vcsHealthStatus=string?
ClusterConfigInfoEx(ComputeResourceConfigInfo): dasConfig=ClusterDasConfigInfo dasVmConfig=ClusterDasVmConfigInfo* drsConfig=ClusterDrsConfigInfo
    drsVmConfig=ClusterDrsVmConfigInfo* rule=ClusterRuleInfo* group=ClusterGroupInfo*
ClusterDasConfigInfo: enabled=boolean? vmMonitoring=string? hostMonitoring=string? failoverLevel=int? admissionControlEnabled=boolean?
    option=OptionValue*
ClusterDasVmConfigInfo: key=&VirtualMachine
ClusterDrsConfigInfo: enabled=boolean? enableVmBehaviorOverrides=boolean? defaultVmBehavior=%DrsBehavior? vmotionRate=int? option=OptionValue*
ClusterDrsVmConfigInfo: key=&VirtualMachine enabled=boolean? behavior=%DrsBehavior?
ClusterGroupInfo: name=string userCreated=boolean? uniqueID=string?
ClusterPowerOnVmResult:
ClusterRuleInfo: key=int? status=%ManagedEntityStatus? enabled=boolean? name=string? mandatory=boolean? userCreated=boolean?
ComputeResourceConfigInfo: vmSwapPlacement=string spbmEnabled=boolean? defaultHardwareVersionKey=string? maximumHardwareVersionKey=string?
ComputeResourceEventArgument(EntityEventArgument): computeResource=&ComputeResource
ComputeResourceSummary: totalCpu=int totalMemory=long numCpuCores=short numCpuThreads=short effectiveCpu=int effectiveMemory=long numHosts=int
    numEffectiveHosts=int overallStatus=%ManagedEntityStatus
ConcurrentAccess(VimFault):
CryptoKeyId: keyId=string providerId=KeyProviderId?
CustomFieldDef: key=int name=string type=TypeName managedObjectType=TypeName? fieldDefPrivileges=PrivilegePolicyDef?
    fieldInstancePrivileges=PrivilegePolicyDef?
CustomFieldValue: key=int
DVPortSetting:
DVPortgroupConfigInfo: key=string name=string numPorts=int distributedVirtualSwitch=&DistributedVirtualSwitch? defaultPortConfig=DVPortSetting?
    description=string? type=string backingType=string? policy=DVPortgroupPolicy portNameFormat=string? scope=&ManagedEntity* configVersion=string?
    autoExpand=boolean? vmVnicNetworkResourcePoolKey=string? uplink=boolean? transportZoneUuid=string? transportZoneName=string?
    logicalSwitchUuid=string? segmentId=string?
DVPortgroupPolicy: blockOverrideAllowed=boolean shapingOverrideAllowed=boolean vendorConfigOverrideAllowed=boolean livePortMovingAllowed=boolean
    portConfigResetAtDisconnect=boolean networkResourcePoolOverrideAllowed=boolean? trafficFilterOverrideAllowed=boolean?
DVSConfigInfo: uuid=string name=string numStandalonePorts=int numPorts=int maxPorts=int uplinkPortgroup=&DistributedVirtualPortgroup*
    defaultPortConfig=DVPortSetting productInfo=DistributedVirtualSwitchProductSpec targetInfo=DistributedVirtualSwitchProductSpec?
    extensionKey=string? description=string? configVersion=string switchIpAddress=string? createTime=dateTime networkResourceManagementEnabled=boolean
    defaultProxySwitchMaxNumPorts=int? networkResourceControlVersion=string? pnicCapacityRatioForReservation=int?
DVSSummary: name=string uuid=string numPorts=int productInfo=DistributedVirtualSwitchProductSpec? hostMember=&HostSystem* vm=&VirtualMachine*
    host=&HostSystem* portgroupName=string* description=string? numHosts=int?
DatacenterConfigInfo: defaultHardwareVersionKey=string? maximumHardwareVersionKey=string?
DatacenterEventArgument(EntityEventArgument): datacenter=&Datacenter
DatastoreCapability: directoryHierarchySupported=boolean rawDiskMappingsSupported=boolean perFileThinProvisioningSupported=boolean
    storageIORMSupported=boolean nativeSnapshotSupported=boolean topLevelDirectoryCreateSupported=boolean? seSparseSupported=boolean?
    vmfsSparseSupported=boolean? vsanSparseSupported=boolean? upitSupported=boolean? vmdkExpandSupported=boolean? clusteredVmdkSupported=boolean?
DatastoreEventArgument(EntityEventArgument): datastore=&Datastore
DatastoreHostMount: key=&HostSystem mountInfo=HostMountInfo
DatastoreInfo: name=string url=string freeSpace=long maxFileSize=long maxVirtualDiskCapacity=long? maxMemoryFileSize=long timestamp=dateTime?
    containerId=string? aliasOf=string?
DatastoreSummary: datastore=&Datastore? name=string url=string capacity=long freeSpace=long uncommitted=long? accessible=boolean
    multipleHostAccess=boolean? type=string maintenanceMode=string?
Description: label=string summary=string
DiskChangeExtent: start=long length=long
DiskChangeInfo: startOffset=long length=long changedArea=DiskChangeExtent*
DistributedVirtualSwitchPortConnection: switchUuid=string portgroupKey=string? portKey=string? connectionCookie=int?
DistributedVirtualSwitchProductSpec: name=string? vendor=string? version=string? build=string? forwardingClass=string? bundleId=string?
    bundleUrl=string?
DuplicateName(VimFault): name=string object=&ManagedObjectReference
DvsEventArgument(EntityEventArgument): dvs=&DistributedVirtualSwitch
DynamicProperty: name=PropertyPath val=anyType
ElementDescription(Description): key=string
EntityEventArgument(EventArgument): name=string
EntityPrivilege: entity=&ManagedEntity privAvailability=PrivilegeAvailability+
Event: key=int chainId=int createdTime=dateTime userName=string datacenter=DatacenterEventArgument? computeResource=ComputeResourceEventArgument?
    host=HostEventArgument? vm=VmEventArgument? ds=DatastoreEventArgument? net=NetworkEventArgument? dvs=DvsEventArgument?
    fullFormattedMessage=string? changeTag=string?
EventArgument:
EventDescription: category=ElementDescription+ eventInfo=EventDescriptionEventDetail+
EventDescriptionEventDetail: key=TypeName description=string? category=string formatOnDatacenter=string formatOnComputeResource=string
    formatOnHost=string formatOnVm=string fullFormat=string longDescription=string?
EventFilterSpec: entity=EventFilterSpecByEntity? time=EventFilterSpecByTime? userName=EventFilterSpecByUsername? eventChainId=int? alarm=&Alarm?
    scheduledTask=&ScheduledTask? disableFullMessage=boolean? category=string* type=TypeName* tag=string* eventTypeId=string* maxCount=int?
    delayedInit=boolean?
EventFilterSpecByEntity: entity=&ManagedEntity recursion=%EventFilterSpecRecursionOption
EventFilterSpecByTime: beginTime=dateTime? endTime=dateTime?
EventFilterSpecByUsername: systemUser=boolean userList=string*
FileAlreadyExists(FileFault):
FileFault(VimFault): file=string
FileInfo: path=string friendlyName=string? fileSize=long? modification=dateTime? owner=string?
FileLocked(FileFault):
FileNotFound(FileFault):
FileQuery:
FileQueryFlags: fileType=boolean fileSize=boolean modification=boolean fileOwner=boolean
FloppyImageFileInfo(FileInfo):
FloppyImageFileQuery(FileQuery):
FolderFileInfo(FileInfo):
FolderFileQuery(FileQuery):
GenericVmConfigFault(VmConfigFault): reason=string
GuestDiskInfo: diskPath=string? capacity=long? freeSpace=long? filesystemType=string?
GuestInfo: toolsStatus=%VirtualMachineToolsStatus? toolsVersionStatus=string? toolsVersionStatus2=string? toolsRunningStatus=string?
    toolsVersion=string? toolsInstallType=string? guestId=string? guestFamily=string? guestFullName=string? guestDetailedData=string? hostName=string?
    ipAddress=string? net=GuestNicInfo* ipStack=GuestStackInfo* disk=GuestDiskInfo* guestState=string appHeartbeatStatus=string?
    guestKernelCrashed=boolean? appState=string? guestOperationsReady=boolean? interactiveGuestOperationsReady=boolean?
    guestStateChangeSupported=boolean? hwVersion=string?
GuestNicInfo: network=string? ipAddress=string* macAddress=string? connected=boolean deviceConfigId=int ipConfig=NetIpConfigInfo?
GuestStackInfo: ipStackConfig=KeyValue*
HostBIOSInfo: biosVersion=string? releaseDate=dateTime? vendor=string? majorRelease=int? minorRelease=int? firmwareMajorRelease=int?
    firmwareMinorRelease=int? firmwareType=string?
HostAutoStartManagerConfig: defaults=AutoStartDefaults? powerInfo=AutoStartPowerInfo*
HostCapability: recursiveResourcePoolsSupported=boolean cpuMemoryResourceConfigurationSupported=boolean rebootSupported=boolean
    shutdownSupported=boolean vmotionSupported=boolean standbySupported=boolean ipmiSupported=boolean? maxSupportedVMs=int? maxRunningVMs=int?
    maxSupportedVcpus=int? maxRegisteredVMs=int? datastorePrincipalSupported=boolean sanSupported=boolean nfsSupported=boolean iscsiSupported=boolean
    vlanTaggingSupported=boolean nicTeamingSupported=boolean highGuestMemSupported=boolean maintenanceModeSupported=boolean
    suspendedRelocateSupported=boolean restrictedSnapshotRelocateSupported=boolean perVmSwapFiles=boolean localSwapDatastoreSupported=boolean
    unsharedSwapVMotionSupported=boolean backgroundSnapshotsSupported=boolean preAssignedPCIUnitNumbersSupported=boolean screenshotSupported=boolean
    scaledScreenshotSupported=boolean storageVMotionSupported=boolean vmotionWithStorageVMotionSupported=boolean
    vmotionAcrossNetworkSupported=boolean? maxNumDisksSVMotion=int? maxVirtualDiskDescVersionSupported=int? hbrNicSelectionSupported=boolean
    vrNfcNicSelectionSupported=boolean recordReplaySupported=boolean ftSupported=boolean replayUnsupportedReason=string?
    replayCompatibilityIssues=string* smpFtSupported=boolean ftCompatibilityIssues=string* smpFtCompatibilityIssues=string* maxVcpusPerFtVm=int?
    loginBySSLThumbprintSupported=boolean? cloneFromSnapshotSupported=boolean deltaDiskBackingsSupported=boolean
    perVMNetworkTrafficShapingSupported=boolean tpmSupported=boolean tpmVersion=string? txtEnabled=boolean? supportedCpuFeature=HostCpuIdInfo*
    virtualExecUsageSupported=boolean storageIORMSupported=boolean vmDirectPathGen2Supported=boolean? vmDirectPathGen2UnsupportedReason=string*
    vmDirectPathGen2UnsupportedReasonExtended=string? supportedVmfsMajorVersion=int* vStorageCapable=boolean snapshotRelayoutSupported=boolean
    firewallIpRulesSupported=boolean? servicePackageInfoSupported=boolean? maxHostRunningVms=int? maxHostSupportedVcpus=int?
    vmfsDatastoreMountCapable=boolean eightPlusHostVmfsSharedAccessSupported=boolean nestedHVSupported=boolean vPMCSupported=boolean
    interVMCommunicationThroughVMCISupported=boolean scheduledHardwareUpgradeSupported=boolean? featureCapabilitiesSupported=boolean
    latencySensitivitySupported=boolean storagePolicySupported=boolean? accel3dSupported=boolean reliableMemoryAware=boolean?
    multipleNetworkStackInstanceSupported=boolean? messageBusProxySupported=boolean? vsanSupported=boolean? vFlashSupported=boolean?
    hostAccessManagerSupported=boolean? provisioningNicSelectionSupported=boolean nfs41Supported=boolean? nfs41Krb5iSupported=boolean?
    turnDiskLocatorLedSupported=boolean? virtualVolumeDatastoreSupported=boolean? markAsSsdSupported=boolean? markAsLocalSupported=boolean?
    smartCardAuthenticationSupported=boolean? pMemSupported=boolean? pMemSnapshotSupported=boolean? cryptoSupported=boolean?
    oneKVolumeAPIsSupported=boolean? gatewayOnNicSupported=boolean? upitSupported=boolean? cpuHwMmuSupported=boolean?
    encryptedVMotionSupported=boolean? encryptionChangeOnAddRemoveSupported=boolean? encryptionHotOperationSupported=boolean?
    encryptionWithSnapshotsSupported=boolean? encryptionFaultToleranceSupported=boolean? encryptionMemorySaveSupported=boolean?
    encryptionRDMSupported=boolean? encryptionVFlashSupported=boolean? encryptionCBRCSupported=boolean? encryptionHBRSupported=boolean?
    ftEfiSupported=boolean? unmapMethodSupported=string? maxMemMBPerFtVm=int? virtualMmuUsageIgnored=boolean? virtualExecUsageIgnored=boolean?
    vmCreateDateSupported=boolean? vmfs3EOLSupported=boolean? ftVmcpSupported=boolean? quickBootSupported=boolean? encryptedFtSupported=boolean?
    assignableHardwareSupported=boolean? suspendToMemorySupported=boolean? useFeatureReqsForOldHWv=boolean? markPerenniallyReservedSupported=boolean?
    hppPspSupported=boolean? deviceRebindWithoutRebootSupported=boolean? storagePolicyChangeSupported=boolean? precisionTimeProtocolSupported=boolean?
    remoteDeviceVMotionSupported=boolean? maxSupportedVmMemory=int? ahDeviceHintsSupported=boolean? nvmeOverTcpSupported=boolean?
    nvmeStorageFabricServicesSupported=boolean? assignHwPciConfigSupported=boolean? timeConfigSupported=boolean? nvmeBatchOperationsSupported=boolean?
    pMemFailoverSupported=boolean? hostConfigEncryptionSupported=boolean? maxSupportedSimultaneousThreads=int? ptpConfigSupported=boolean?
    maxSupportedPtpPorts=int? sgxRegistrationSupported=boolean? pMemIndependentSnapshotSupported=boolean? iommuSLDirtyCapable=boolean?
    vmknicBindingSupported=boolean? ultralowFixedUnmapSupported=boolean? nvmeVvolSupported=boolean? fptHotplugSupported=boolean?
    mconnectSupported=boolean? vsanNicMgmtSupported=boolean? vvolNQNSupported=boolean? stretchedSCSupported=boolean? vmknicBindingOnNFSv41=boolean?
    vpStatusCheckSupported=boolean? nConnectSupported=boolean? userKeySupported=boolean? ndcmSupported=boolean? uefiSecureBoot=boolean?
HostCommunication(RuntimeFault):
HostConfigInfo: host=&HostSystem product=AboutInfo fileSystemVolume=HostFileSystemVolumeInfo? systemFile=string* network=HostNetworkInfo?
    virtualNicManagerInfo=HostVirtualNicManagerInfo? option=OptionValue* optionDef=OptionDef* datastorePrincipal=string?
    localSwapDatastore=&Datastore? adminDisabled=boolean? lockdownMode=%HostLockdownMode? certificate=byte* wakeOnLanCapable=boolean?
    domainList=string* scriptCheckSum=base64Binary? hostConfigCheckSum=base64Binary? descriptionTreeCheckSum=base64Binary?
    sharedPassthruGpuTypes=string*
HostConfigManager: cpuScheduler=&HostCpuSchedulerSystem? datastoreSystem=&HostDatastoreSystem? memoryManager=&HostMemorySystem?
    storageSystem=&HostStorageSystem? networkSystem=&HostNetworkSystem? vmotionSystem=&HostVMotionSystem? virtualNicManager=&HostVirtualNicManager?
    serviceSystem=&HostServiceSystem? firewallSystem=&HostFirewallSystem? advancedOption=&OptionManager? diagnosticSystem=&HostDiagnosticSystem?
    autoStartManager=&HostAutoStartManager? snmpSystem=&HostSnmpSystem? dateTimeSystem=&HostDateTimeSystem? patchManager=&HostPatchManager?
    imageConfigManager=&HostImageConfigManager? bootDeviceSystem=&HostBootDeviceSystem? firmwareSystem=&HostFirmwareSystem?
    healthStatusSystem=&HostHealthStatusSystem? pciPassthruSystem=&HostPciPassthruSystem? licenseManager=&LicenseManager?
    kernelModuleSystem=&HostKernelModuleSystem? authenticationManager=&HostAuthenticationManager? powerSystem=&HostPowerSystem?
    cacheConfigurationManager=&HostCacheConfigurationManager? esxAgentHostManager=&HostEsxAgentHostManager? iscsiManager=&IscsiManager?
    vFlashManager=&HostVFlashManager? vsanSystem=&HostVsanSystem? messageBusProxy=&MessageBusProxy? userDirectory=&UserDirectory?
    accountManager=&HostLocalAccountManager? hostAccessManager=&HostAccessManager? graphicsManager=&HostGraphicsManager?
    vsanInternalSystem=&HostVsanInternalSystem? certificateManager=&HostCertificateManager? cryptoManager=&CryptoManager?
    nvdimmSystem=&HostNvdimmSystem? assignableHardwareManager=&HostAssignableHardwareManager?
HostConfigSummary: name=string port=int sslThumbprint=string? product=AboutInfo? vmotionEnabled=boolean faultToleranceEnabled=boolean
    agentVmDatastore=&Datastore? agentVmNetwork=&Network?
HostConnectFault(VimFault):
HostCpuIdInfo: level=int vendor=string? eax=string? ebx=string? ecx=string? edx=string?
HostCpuInfo: numCpuPackages=short numCpuCores=short numCpuThreads=short hz=long
HostCpuPackage: index=short vendor=string hz=long busHz=long description=string threadId=short+ cpuFeature=HostCpuIdInfo* family=short? model=short?
    stepping=short?
HostDatastoreBrowserSearchResults: datastore=&Datastore? folderPath=string? file=FileInfo*
HostDatastoreBrowserSearchSpec: query=FileQuery* details=FileQueryFlags? searchCaseInsensitive=boolean? matchPattern=string* sortFoldersFirst=boolean?
HostDnsConfig: dhcp=boolean virtualNicDevice=string? ipv6VirtualNicDevice=string? hostName=string domainName=string address=string*
    searchDomain=string*
HostEventArgument(EntityEventArgument): host=&HostSystem
HostFileSystemMountInfo: mountInfo=HostMountInfo volume=HostFileSystemVolume vStorageSupport=string?
HostFileSystemVolume: type=string name=string capacity=long
HostFileSystemVolumeInfo: volumeTypeList=string* mountInfo=HostFileSystemMountInfo*
HostHardwareInfo: systemInfo=HostSystemInfo cpuInfo=HostCpuInfo cpuPkg=HostCpuPackage+ memorySize=long smcPresent=boolean cpuFeature=HostCpuIdInfo*
    biosInfo=HostBIOSInfo? memoryTieringType=string?
HostHardwareSummary: vendor=string model=string uuid=string memorySize=long cpuModel=string cpuMhz=int numCpuPkgs=short numCpuCores=short
    numCpuThreads=short numNics=int numHBAs=int
HostIpConfig: dhcp=boolean ipAddress=string? subnetMask=string?
HostListSummary: host=&HostSystem? hardware=HostHardwareSummary? runtime=HostRuntimeInfo? config=HostConfigSummary
    quickStats=HostListSummaryQuickStats overallStatus=%ManagedEntityStatus rebootRequired=boolean managementServerIp=string? maxEVCModeKey=string?
    currentEVCModeKey=string? currentEVCGraphicsModeKey=string?
HostListSummaryQuickStats: overallCpuUsage=int? overallMemoryUsage=int? distributedCpuFairness=int? distributedMemoryFairness=int?
    availablePMemCapacity=int? uptime=int?
HostMountInfo: path=string? accessMode=string mounted=boolean? accessible=boolean? inaccessibleReason=string? vmknicName=string? vmknicActive=boolean?
    mountFailedReason=string? numTcpConnections=int?
HostNasVolume(HostFileSystemVolume): remoteHost=string remotePath=string userName=string? remoteHostNames=string* securityType=string?
    protocolEndpoint=boolean?
HostNetworkInfo: vswitch=HostVirtualSwitch* portgroup=HostPortGroup* pnic=PhysicalNic* vnic=HostVirtualNic* consoleVnic=HostVirtualNic*
    dnsConfig=HostDnsConfig? ipV6Enabled=boolean? atBootIpV6Enabled=boolean?
    nsxTransportNodeId=string? nvdsToVdsMigrationRequired=boolean? migrationStatus=string?
HostNetworkPolicy:
HostNotConnected(HostCommunication):
HostPortGroup: key=string? vswitch=string? computedPolicy=HostNetworkPolicy spec=HostPortGroupSpec
HostPortGroupSpec: name=string vlanId=int vswitchName=string policy=HostNetworkPolicy
HostRuntimeInfo: connectionState=%HostSystemConnectionState powerState=%HostSystemPowerState standbyMode=string? inMaintenanceMode=boolean
    inQuarantineMode=boolean? bootTime=dateTime? hostMaxVirtualDiskCapacity=long? cryptoState=string? cryptoKeyId=CryptoKeyId?
    statelessNvdsMigrationReady=string?
HostScsiDiskPartition: diskName=string partition=int
HostSystemInfo: vendor=string model=string uuid=string serialNumber=string? vvolHostId=string? bootCommandLine=string?
HostVirtualNic: device=string key=string portgroup=string spec=HostVirtualNicSpec port=string?
HostVirtualNicManagerInfo: netConfig=VirtualNicManagerNetConfig*
HostVirtualNicSpec: ip=HostIpConfig? mac=string? distributedVirtualPort=DistributedVirtualSwitchPortConnection? portgroup=string? mtu=int?
    tsoEnabled=boolean? netStackInstanceKey=string? externalId=string? pinnedPnic=string? systemOwned=boolean? dpuId=string?
HostVirtualSwitch: name=string key=string numPorts=int numPortsAvailable=int mtu=int? portgroup=string* pnic=string* spec=HostVirtualSwitchSpec
HostVirtualSwitchSpec: numPorts=int mtu=int?
HostVmfsVolume(HostFileSystemVolume): blockSizeMb=int blockSize=int? unmapGranularity=int? unmapPriority=string? maxBlocks=int majorVersion=int
    version=string uuid=string extent=HostScsiDiskPartition+ vmfsUpgradable=boolean ssd=boolean? local=boolean? scsiDiskType=string?
HttpNfcLeaseCapabilities: pullModeSupported=boolean corsSupported=boolean
HttpNfcLeaseDatastoreLeaseInfo: datastoreKey=string hosts=HttpNfcLeaseHostInfo+
HttpNfcLeaseDeviceUrl: key=string importKey=string url=string sslThumbprint=string disk=boolean? targetId=string? datastoreKey=string? fileSize=long?
HttpNfcLeaseHostInfo: url=string sslThumbprint=string
HttpNfcLeaseInfo: lease=&HttpNfcLease entity=&ManagedEntity deviceUrl=HttpNfcLeaseDeviceUrl* totalDiskCapacityInKB=long leaseTimeout=int
    hostMap=HttpNfcLeaseDatastoreLeaseInfo*
HttpNfcLeaseManifestEntry: key=string sha1=string checksum=string? checksumType=string? size=long disk=boolean capacity=long? populatedSize=long?
HttpNfcLeaseSourceFile: targetDeviceId=string url=string memberName=string? create=boolean sslThumbprint=string? httpHeaders=KeyValue* size=long?
InsufficientResourcesFault(VimFault):
InvalidArgument(RuntimeFault): invalidProperty=PropertyPath?
InvalidCollectorVersion(MethodFault):
InvalidDatastore(VimFault): datastore=&Datastore? name=string?
InvalidDatastorePath(InvalidDatastore): datastorePath=string
InvalidDeviceSpec(InvalidVmConfig): deviceIndex=int
InvalidLogin(VimFault):
InvalidName(VimFault): name=string entity=&ManagedEntity?
InvalidPowerState(InvalidState): requestedState=%VirtualMachinePowerState? existingState=%VirtualMachinePowerState
InvalidProperty(MethodFault): name=PropertyPath
InvalidRequest(RuntimeFault):
InvalidState(VimFault):
InvalidType(InvalidRequest): argument=PropertyPath?
InvalidVmConfig(VmConfigFault): property=PropertyPath?
IsoImageFileInfo(FileInfo):
IsoImageFileQuery(FileQuery):
KeyAnyValue: key=string value=anyType
KeyProviderId: id=string
KeyValue: key=string value=string
LatencySensitivity: level=%LatencySensitivitySensitivityLevel sensitivity=int?
LicenseFeatureInfo: key=string featureName=string featureDescription=string? state=%LicenseFeatureInfoState? costUnit=string sourceRestriction=string?
    dependentKey=string* edition=boolean? expiresOn=dateTime?
LicenseManagerLicenseInfo: licenseKey=string editionKey=string name=string total=int used=int? costUnit=string properties=KeyAnyValue*
    labels=KeyValue*
LocalDatastoreInfo(DatastoreInfo): path=string?
LocalizableMessage: key=string arg=KeyAnyValue* message=string?
LocalizedMethodFault: fault=MethodFault localizedMessage=string?
ManagedObjectNotFound(RuntimeFault): obj=&ManagedObjectReference
MethodFault: faultCause=LocalizedMethodFault? faultMessage=LocalizableMessage*
MethodNotFound(InvalidRequest): receiver=&ManagedObjectReference method=string
MigrationFault(VimFault):
MissingObject: obj=&ManagedObjectReference fault=LocalizedMethodFault
MissingProperty: path=PropertyPath fault=LocalizedMethodFault
NasDatastoreInfo(DatastoreInfo): nas=HostNasVolume?
NetIpConfigInfo: ipAddress=NetIpConfigInfoIpAddress* autoConfigurationEnabled=boolean?
NetIpConfigInfoIpAddress: ipAddress=string prefixLength=int origin=string? state=string? lifetime=dateTime?
NetworkDisruptedAndConfigRolledBack(VimFault): host=string
NetworkEventArgument(EntityEventArgument): network=&Network
NetworkSummary: network=&Network? name=string accessible=boolean ipPoolName=string ipPoolId=int?
NoActiveHostInCluster(InvalidState): computeResource=&ComputeResource
NoDiskSpace(FileFault): datastore=string
NoHost(HostConnectFault): name=string?
NoPermission(SecurityError): object=&ManagedObjectReference? privilegeId=string?
NotAuthenticated(NoPermission):
NotEnoughLicenses(RuntimeFault):
NotFound(VimFault):
NotSupported(RuntimeFault):
ObjectContent: obj=&ManagedObjectReference propSet=DynamicProperty* missingSet=MissingProperty*
ObjectSpec: obj=&ManagedObjectReference skip=boolean? selectSet=SelectionSpec*
ObjectUpdate: kind=%ObjectUpdateKind obj=&ManagedObjectReference changeSet=PropertyChange* missingSet=MissingProperty*
OptionDef(ElementDescription):
OptionValue: key=string value=anyType
OvfCreateDescriptorParams: ovfFiles=OvfFile* name=string? description=string? includeImageFiles=boolean? exportOption=string*
    snapshot=&VirtualMachineSnapshot?
OvfCreateDescriptorResult: ovfDescriptor=string error=LocalizedMethodFault* warning=LocalizedMethodFault* includeImageFiles=boolean?
OvfFile: deviceId=string path=string compressionMethod=string? chunkSize=long? size=long capacity=long? populatedSize=long?
ParaVirtualSCSIController(VirtualSCSIController):
PerformanceDescription: counterType=ElementDescription+ statsType=ElementDescription+
Permission: entity=&ManagedEntity? principal=string group=boolean roleId=int propagate=boolean
PhysicalNic: key=string? device=string pci=string driver=string? driverVersion=string? firmwareVersion=string? wakeOnLanSupported=boolean mac=string
    vmDirectPathGen2Supported=boolean? vmDirectPathGen2SupportedMode=string? resourcePoolSchedulerAllowed=boolean?
    resourcePoolSchedulerDisallowedReason=string* autoNegotiateSupported=boolean? enhancedNetworkingStackSupported=boolean?
    ensInterruptSupported=boolean? rdmaDevice=string? dpuId=string?
PrivilegeAvailability: privId=string isGranted=boolean
PrivilegePolicyDef: createPrivilege=string readPrivilege=string updatePrivilege=string deletePrivilege=string
PropertyChange: name=PropertyPath op=%PropertyChangeOp val=anyType
PropertyFilterSpec: propSet=PropertySpec+ objectSet=ObjectSpec+ reportMissingObjectsInResults=boolean?
PropertyFilterUpdate: filter=&PropertyFilter objectSet=ObjectUpdate* missingSet=MissingObject*
PropertySpec: type=TypeName all=boolean? pathSet=PropertyPath*
RequestCanceled(RuntimeFault):
ResourceAllocationInfo: reservation=long? expandableReservation=boolean? limit=long? shares=SharesInfo? overheadLimit=long?
ResourceConfigSpec: entity=&ManagedEntity? changeVersion=string? lastModified=dateTime? cpuAllocation=ResourceAllocationInfo
    memoryAllocation=ResourceAllocationInfo scaleDescendantsShares=string?
ResourcePoolQuickStats: overallCpuUsage=long? overallCpuDemand=long? guestMemoryUsage=long? hostMemoryUsage=long? distributedCpuEntitlement=long?
    distributedMemoryEntitlement=long? staticCpuEntitlement=int? staticMemoryEntitlement=int? privateMemory=long? sharedMemory=long?
    swappedMemory=long? balloonedMemory=long? overheadMemory=long? consumedOverheadMemory=long? compressedMemory=long?
ResourcePoolResourceUsage: reservationUsed=long reservationUsedForVm=long unreservedForPool=long unreservedForVm=long overallUsage=long maxUsage=long
ResourcePoolRuntimeInfo: memory=ResourcePoolResourceUsage cpu=ResourcePoolResourceUsage overallStatus=%ManagedEntityStatus sharesScalable=string?
ResourcePoolSummary: name=string config=ResourceConfigSpec runtime=ResourcePoolRuntimeInfo quickStats=ResourcePoolQuickStats? configuredMemoryMB=int?
RestrictedVersion(SecurityError):
RetrieveOptions: maxObjects=int?
RetrieveResult: token=string? objects=ObjectContent+
RuntimeFault(MethodFault):
SecurityError(RuntimeFault):
SelectionSpec: name=string?
ServiceContent: rootFolder=&Folder propertyCollector=&PropertyCollector viewManager=&ViewManager? about=AboutInfo setting=&OptionManager?
    userDirectory=&UserDirectory? sessionManager=&SessionManager? authorizationManager=&AuthorizationManager? serviceManager=&ServiceManager?
    perfManager=&PerformanceManager? scheduledTaskManager=&ScheduledTaskManager? alarmManager=&AlarmManager? eventManager=&EventManager?
    taskManager=&TaskManager? extensionManager=&ExtensionManager? customizationSpecManager=&CustomizationSpecManager?
    guestCustomizationManager=&VirtualMachineGuestCustomizationManager? customFieldsManager=&CustomFieldsManager?
    accountManager=&HostLocalAccountManager? diagnosticManager=&DiagnosticManager? licenseManager=&LicenseManager? searchIndex=&SearchIndex?
    fileManager=&FileManager? datastoreNamespaceManager=&DatastoreNamespaceManager? virtualDiskManager=&VirtualDiskManager?
    virtualizationManager=&VirtualizationManager? snmpSystem=&HostSnmpSystem? vmProvisioningChecker=&VirtualMachineProvisioningChecker?
    vmCompatibilityChecker=&VirtualMachineCompatibilityChecker? ovfManager=&OvfManager? ipPoolManager=&IpPoolManager?
    dvSwitchManager=&DistributedVirtualSwitchManager? hostProfileManager=&HostProfileManager? clusterProfileManager=&ClusterProfileManager?
    complianceManager=&ProfileComplianceManager? localizationManager=&LocalizationManager? storageResourceManager=&StorageResourceManager?
    guestOperationsManager=&GuestOperationsManager? overheadMemoryManager=&OverheadMemoryManager? certificateManager=&CertificateManager?
    ioFilterManager=&IoFilterManager? vStorageObjectManager=&VStorageObjectManagerBase? hostSpecManager=&HostSpecificationManager?
    cryptoManager=&CryptoManager? healthUpdateManager=&HealthUpdateManager? failoverClusterConfigurator=&FailoverClusterConfigurator?
    failoverClusterManager=&FailoverClusterManager? tenantManager=&TenantTenantManager? siteInfoManager=&SiteInfoManager?
    storageQueryManager=&StorageQueryManager?
SessionEvent(Event):
SessionManagerGenericServiceTicket: id=string hostName=string? sslThumbprint=string? ticketType=string?
SessionManagerHttpServiceRequestSpec(SessionManagerServiceRequestSpec): method=string? url=string
SessionManagerLocalTicket: userName=string passwordFilePath=string
SessionManagerServiceRequestSpec:
SharesInfo: shares=int level=%SharesLevel
SnapshotFault(VimFault):
SnapshotSelectionSpec: retentionDays=int?
StorageIOAllocationInfo: limit=long? shares=SharesInfo? reservation=int?
SystemError(RuntimeFault): reason=string
Tag: key=string
TaskDescription: methodInfo=ElementDescription+ state=ElementDescription+ reason=TypeDescription+
TaskEvent(Event): info=TaskInfo
TaskFilterSpec: activationId=string* state=%TaskInfoState* alarm=&Alarm? scheduledTask=&ScheduledTask? eventChainId=int* tag=string*
    parentTaskKey=string* rootTaskKey=string*
TaskInProgress(VimFault): task=&Task
TaskInfo: key=string task=&Task description=LocalizableMessage? name=MethodName? descriptionId=string entity=&ManagedEntity? entityName=string?
    locked=&ManagedEntity* state=%TaskInfoState cancelled=boolean cancelable=boolean error=LocalizedMethodFault? result=anyType progress=int?
    progressDetails=KeyAnyValue* reason=TaskReason queueTime=dateTime startTime=dateTime? completeTime=dateTime? eventChainId=int changeTag=string?
    parentTaskKey=string? rootTaskKey=string? activationId=string?
TaskReason:
TaskReasonSystem(TaskReason):
TaskReasonUser(TaskReason): userName=string
TemplateConfigFileInfo(VmConfigFileInfo):
TemplateConfigFileQuery(VmConfigFileQuery):
TemplateUpgradeEvent(Event): legacyTemplate=string
Timedout(VimFault):
ToolsConfigInfo: toolsVersion=int? toolsInstallType=string? afterPowerOn=boolean? afterResume=boolean? beforeGuestStandby=boolean?
    beforeGuestShutdown=boolean? beforeGuestReboot=boolean? toolsUpgradePolicy=string? pendingCustomization=string? customizationKeyId=CryptoKeyId?
    syncTimeWithHostAllowed=boolean? syncTimeWithHost=boolean?
ToolsUnavailable(VimFault):
TraversalSpec(SelectionSpec): type=TypeName path=PropertyPath skip=boolean? selectSet=SelectionSpec*
TypeDescription(Description): key=TypeName
UpdateSet: version=string filterSet=PropertyFilterUpdate* truncated=boolean?
UserLoginSessionEvent(SessionEvent): ipAddress=string userAgent=string? locale=string sessionId=string
UserLogoutSessionEvent(SessionEvent): ipAddress=string? userAgent=string? callCount=long? sessionId=string? loginTime=dateTime?
UserPrivilegeResult: entity=&ManagedEntity privileges=string*
UserSession: key=string userName=string fullName=string loginTime=dateTime lastActiveTime=dateTime locale=string messageLocale=string
    extensionSession=boolean ipAddress=string userAgent=string callCount=long
VAppPropertyFault(VmConfigFault): id=string category=string label=string type=string value=string
VMwareDVSConfigInfo(DVSConfigInfo): maxMtu=int lacpApiVersion=string? multicastFilteringMode=string? networkOffloadSpecId=string?
VimFault(MethodFault):
VirtualAHCIController(VirtualSATAController):
VirtualBusLogicController(VirtualSCSIController):
VirtualCdrom(VirtualDevice):
VirtualCdromAtapiBackingInfo(VirtualDeviceDeviceBackingInfo):
VirtualCdromIsoBackingInfo(VirtualDeviceFileBackingInfo):
VirtualCdromPassthroughBackingInfo(VirtualDeviceDeviceBackingInfo): exclusive=boolean
VirtualCdromRemoteAtapiBackingInfo(VirtualDeviceRemoteDeviceBackingInfo):
VirtualCdromRemotePassthroughBackingInfo(VirtualDeviceRemoteDeviceBackingInfo): exclusive=boolean
VirtualController(VirtualDevice): busNumber=int device=int*
VirtualDevice: key=int deviceInfo=Description? backing=VirtualDeviceBackingInfo? connectable=VirtualDeviceConnectInfo? controllerKey=int?
    unitNumber=int? numaNode=int?
VirtualDeviceBackingInfo:
VirtualDeviceConfigSpec: operation=%VirtualDeviceConfigSpecOperation? fileOperation=%VirtualDeviceConfigSpecFileOperation? device=VirtualDevice
    changeMode=string?
VirtualDeviceConnectInfo: migrateConnect=string? startConnected=boolean allowGuestControl=boolean connected=boolean status=string?
VirtualDeviceDeviceBackingInfo(VirtualDeviceBackingInfo): deviceName=string useAutoDetect=boolean?
VirtualDeviceFileBackingInfo(VirtualDeviceBackingInfo): fileName=string datastore=&Datastore? backingObjectId=string?
VirtualDeviceRemoteDeviceBackingInfo(VirtualDeviceBackingInfo): deviceName=string useAutoDetect=boolean?
VirtualDisk(VirtualDevice): capacityInKB=long capacityInBytes=long? shares=SharesInfo? storageIOAllocation=StorageIOAllocationInfo?
    diskObjectId=string? iofilter=string* vDiskVersion=int? nativeUnmanagedLinkedClone=boolean? guestReadOnly=boolean?
VirtualDiskFlatVer2BackingInfo(VirtualDeviceFileBackingInfo): diskMode=string split=boolean? writeThrough=boolean? thinProvisioned=boolean?
    eagerlyScrub=boolean? uuid=string? contentId=string? changeId=string? parent=VirtualDiskFlatVer2BackingInfo? deltaDiskFormat=string?
    digestEnabled=boolean? deltaGrainSize=int? deltaDiskFormatVariant=string? sharing=string? keyId=CryptoKeyId?
VirtualDiskRawDiskMappingVer1BackingInfo(VirtualDeviceFileBackingInfo): lunUuid=string? deviceName=string? compatibilityMode=string? diskMode=string?
    uuid=string? contentId=string? changeId=string? parent=VirtualDiskRawDiskMappingVer1BackingInfo? deltaDiskFormat=string? deltaGrainSize=int?
    sharing=string?
VirtualDiskSeSparseBackingInfo(VirtualDeviceFileBackingInfo): diskMode=string writeThrough=boolean? uuid=string? contentId=string? changeId=string?
    parent=VirtualDiskSeSparseBackingInfo? deltaDiskFormat=string? digestEnabled=boolean? grainSize=int? keyId=CryptoKeyId?
VirtualDiskSparseVer2BackingInfo(VirtualDeviceFileBackingInfo): diskMode=string split=boolean? writeThrough=boolean? spaceUsedInKB=long? uuid=string?
    contentId=string? changeId=string? parent=VirtualDiskSparseVer2BackingInfo? keyId=CryptoKeyId?
VirtualE1000(VirtualEthernetCard):
VirtualE1000e(VirtualEthernetCard):
VirtualEthernetCard(VirtualDevice): addressType=string? macAddress=string? wakeOnLanEnabled=boolean? externalId=string?
    uptCompatibilityEnabled=boolean?
VirtualEthernetCardDistributedVirtualPortBackingInfo(VirtualDeviceBackingInfo): port=DistributedVirtualSwitchPortConnection
VirtualEthernetCardNetworkBackingInfo(VirtualDeviceDeviceBackingInfo): network=&Network? inPassthroughMode=boolean?
VirtualFloppy(VirtualDevice):
VirtualFloppyDeviceBackingInfo(VirtualDeviceDeviceBackingInfo):
VirtualFloppyImageBackingInfo(VirtualDeviceFileBackingInfo):
VirtualFloppyRemoteDeviceBackingInfo(VirtualDeviceRemoteDeviceBackingInfo):
VirtualHardware: numCPU=int numCoresPerSocket=int? autoCoresPerSocket=boolean? memoryMB=int virtualICH7MPresent=boolean? virtualSMCPresent=boolean?
    device=VirtualDevice* motherboardLayout=string? simultaneousThreads=int?
VirtualIDEController(VirtualController):
VirtualKeyboard(VirtualDevice):
VirtualLsiLogicController(VirtualSCSIController):
VirtualLsiLogicSASController(VirtualSCSIController):
VirtualMachineAffinityInfo: affinitySet=int*
VirtualMachineBootOptions: bootDelay=long? enterBIOSSetup=boolean? efiSecureBootEnabled=boolean? bootRetryEnabled=boolean? bootRetryDelay=long?
    bootOrder=VirtualMachineBootOptionsBootableDevice* networkBootProtocol=string?
VirtualMachineBootOptionsBootableCdromDevice(VirtualMachineBootOptionsBootableDevice):
VirtualMachineBootOptionsBootableDevice:
VirtualMachineBootOptionsBootableDiskDevice(VirtualMachineBootOptionsBootableDevice): deviceKey=int
VirtualMachineBootOptionsBootableEthernetDevice(VirtualMachineBootOptionsBootableDevice): deviceKey=int
VirtualMachineBootOptionsBootableFloppyDevice(VirtualMachineBootOptionsBootableDevice):
VirtualMachineCapability: snapshotOperationsSupported=boolean multipleSnapshotsSupported=boolean snapshotConfigSupported=boolean
    poweredOffSnapshotsSupported=boolean memorySnapshotsSupported=boolean revertToSnapshotSupported=boolean quiescedSnapshotsSupported=boolean
    disableSnapshotsSupported=boolean lockSnapshotsSupported=boolean consolePreferencesSupported=boolean cpuFeatureMaskSupported=boolean
    s1AcpiManagementSupported=boolean settingScreenResolutionSupported=boolean toolsAutoUpdateSupported=boolean vmNpivWwnSupported=boolean
    npivWwnOnNonRdmVmSupported=boolean vmNpivWwnDisableSupported=boolean vmNpivWwnUpdateSupported=boolean swapPlacementSupported=boolean
    toolsSyncTimeSupported=boolean virtualMmuUsageSupported=boolean diskSharesSupported=boolean bootOptionsSupported=boolean
    bootRetryOptionsSupported=boolean settingVideoRamSizeSupported=boolean settingDisplayTopologySupported=boolean recordReplaySupported=boolean
    changeTrackingSupported=boolean multipleCoresPerSocketSupported=boolean hostBasedReplicationSupported=boolean guestAutoLockSupported=boolean
    memoryReservationLockSupported=boolean featureRequirementSupported=boolean poweredOnMonitorTypeChangeSupported=boolean
    seSparseDiskSupported=boolean nestedHVSupported=boolean vPMCSupported=boolean secureBootSupported=boolean? perVmEvcSupported=boolean?
    virtualMmuUsageIgnored=boolean? virtualExecUsageIgnored=boolean? diskOnlySnapshotOnSuspendedVMSupported=boolean? suspendToMemorySupported=boolean?
    toolsSyncTimeAllowSupported=boolean? sevSupported=boolean? pmemFailoverSupported=boolean? requireSgxAttestationSupported=boolean?
    changeModeDisksSupported=boolean? vendorDeviceGroupSupported=boolean?
VirtualMachineCloneSpec: location=VirtualMachineRelocateSpec template=boolean config=VirtualMachineConfigSpec? powerOn=boolean
    snapshot=&VirtualMachineSnapshot? memory=boolean? tpmProvisionPolicy=string?
VirtualMachineConfigInfo: changeVersion=string modified=dateTime name=string guestFullName=string version=string uuid=string createDate=dateTime?
    instanceUuid=string? npivNodeWorldWideName=long* npivPortWorldWideName=long* npivWorldWideNameType=string? npivDesiredNodeWwns=short?
    npivDesiredPortWwns=short? npivTemporaryDisabled=boolean? npivOnNonRdmDisks=boolean? locationId=string? template=boolean guestId=string
    alternateGuestName=string annotation=string? files=VirtualMachineFileInfo tools=ToolsConfigInfo? flags=VirtualMachineFlagInfo
    defaultPowerOps=VirtualMachineDefaultPowerOpInfo rebootPowerOff=boolean? hardware=VirtualHardware cpuAllocation=ResourceAllocationInfo?
    memoryAllocation=ResourceAllocationInfo? latencySensitivity=LatencySensitivity? memoryHotAddEnabled=boolean? cpuHotAddEnabled=boolean?
    cpuHotRemoveEnabled=boolean? hotPlugMemoryLimit=long? hotPlugMemoryIncrementSize=long? cpuAffinity=VirtualMachineAffinityInfo?
    memoryAffinity=VirtualMachineAffinityInfo? extraConfig=OptionValue* cpuFeatureMask=HostCpuIdInfo*
    datastoreUrl=VirtualMachineConfigInfoDatastoreUrlPair* swapPlacement=string? bootOptions=VirtualMachineBootOptions? vAssertsEnabled=boolean?
    changeTrackingEnabled=boolean? firmware=string? maxMksConnections=int? guestAutoLockEnabled=boolean? memoryReservationLockedToMax=boolean?
    nestedHVEnabled=boolean? vPMCEnabled=boolean? vFlashCacheReservation=long? vmxConfigChecksum=base64Binary? messageBusTunnelEnabled=boolean?
    vmStorageObjectId=string? swapStorageObjectId=string? keyId=CryptoKeyId? migrateEncryption=string? ftEncryptionMode=string? sevEnabled=boolean?
    pmemFailoverEnabled=boolean? vmxStatsCollectionEnabled=boolean? vmOpNotificationToAppEnabled=boolean? vmOpNotificationTimeout=long?
    fixedPassthruHotPlugEnabled=boolean? metroFtEnabled=boolean? metroFtHostGroup=string?
VirtualMachineConfigInfoDatastoreUrlPair: name=string url=string
VirtualMachineConfigSpec: changeVersion=string? name=string? version=string? createDate=dateTime? uuid=string? instanceUuid=string?
    npivNodeWorldWideName=long* npivPortWorldWideName=long* npivWorldWideNameType=string? npivDesiredNodeWwns=short? npivDesiredPortWwns=short?
    npivTemporaryDisabled=boolean? npivOnNonRdmDisks=boolean? npivWorldWideNameOp=string? locationId=string? guestId=string?
    alternateGuestName=string? annotation=string? files=VirtualMachineFileInfo? tools=ToolsConfigInfo? flags=VirtualMachineFlagInfo?
    powerOpInfo=VirtualMachineDefaultPowerOpInfo? rebootPowerOff=boolean? numCPUs=int? numCoresPerSocket=int? memoryMB=long?
    memoryHotAddEnabled=boolean? cpuHotAddEnabled=boolean? cpuHotRemoveEnabled=boolean? virtualICH7MPresent=boolean? virtualSMCPresent=boolean?
    deviceChange=VirtualDeviceConfigSpec* cpuAllocation=ResourceAllocationInfo? memoryAllocation=ResourceAllocationInfo?
    latencySensitivity=LatencySensitivity? cpuAffinity=VirtualMachineAffinityInfo? memoryAffinity=VirtualMachineAffinityInfo? extraConfig=OptionValue*
    swapPlacement=string? bootOptions=VirtualMachineBootOptions? vAppConfigRemoved=boolean? vAssertsEnabled=boolean? changeTrackingEnabled=boolean?
    firmware=string? maxMksConnections=int? guestAutoLockEnabled=boolean? memoryReservationLockedToMax=boolean? nestedHVEnabled=boolean?
    vPMCEnabled=boolean? messageBusTunnelEnabled=boolean? migrateEncryption=string? ftEncryptionMode=string? sevEnabled=boolean?
    motherboardLayout=string? pmemFailoverEnabled=boolean? vmxStatsCollectionEnabled=boolean? vmOpNotificationToAppEnabled=boolean?
    vmOpNotificationTimeout=long? simultaneousThreads=int? fixedPassthruHotPlugEnabled=boolean? metroFtEnabled=boolean? metroFtHostGroup=string?
VirtualMachineConfigSummary: name=string template=boolean vmPathName=string memorySizeMB=int? cpuReservation=int? memoryReservation=int? numCpu=int?
    numEthernetCards=int? numVirtualDisks=int? uuid=string? instanceUuid=string? guestId=string? guestFullName=string? annotation=string?
    installBootRequired=boolean? tpmPresent=boolean? numVmiopBackings=int? hwVersion=string?
VirtualMachineDefaultPowerOpInfo: powerOffType=string? suspendType=string? resetType=string? defaultPowerOffType=string? defaultSuspendType=string?
    defaultResetType=string? standbyAction=string?
VirtualMachineDeviceRuntimeInfo: key=int
VirtualMachineFileInfo: vmPathName=string? snapshotDirectory=string? suspendDirectory=string? logDirectory=string? ftMetadataDirectory=string?
VirtualMachineFileLayoutEx: file=VirtualMachineFileLayoutExFileInfo* disk=VirtualMachineFileLayoutExDiskLayout*
    snapshot=VirtualMachineFileLayoutExSnapshotLayout* timestamp=dateTime
VirtualMachineFileLayoutExDiskLayout: key=int chain=VirtualMachineFileLayoutExDiskUnit*
VirtualMachineFileLayoutExDiskUnit: fileKey=int+
VirtualMachineFileLayoutExFileInfo: key=int name=string type=string size=long uniqueSize=long? backingObjectId=string? accessible=boolean?
VirtualMachineFileLayoutExSnapshotLayout: key=&VirtualMachineSnapshot dataKey=int memoryKey=int disk=VirtualMachineFileLayoutExDiskLayout*
VirtualMachineFlagInfo: disableAcceleration=boolean? enableLogging=boolean? useToe=boolean? runWithDebugInfo=boolean? monitorType=string?
    htSharing=string? snapshotDisabled=boolean? snapshotLocked=boolean? diskUuidEnabled=boolean? virtualMmuUsage=string? virtualExecUsage=string?
    snapshotPowerOffBehavior=string? recordReplayEnabled=boolean? faultToleranceType=string? cbrcCacheEnabled=boolean? vvtdEnabled=boolean?
    vbsEnabled=boolean?
VirtualMachineGuestQuiesceSpec: timeout=int?
VirtualMachineGuestSummary: guestId=string? guestFullName=string? toolsStatus=%VirtualMachineToolsStatus? toolsVersionStatus=string?
    toolsVersionStatus2=string? toolsRunningStatus=string? hostName=string? ipAddress=string? hwVersion=string?
VirtualMachineQuickStats: overallCpuUsage=int? overallCpuDemand=int? overallCpuReadiness=int? guestMemoryUsage=int? hostMemoryUsage=int?
    guestHeartbeatStatus=%ManagedEntityStatus distributedCpuEntitlement=int? distributedMemoryEntitlement=int? staticCpuEntitlement=int?
    staticMemoryEntitlement=int? grantedMemory=int? privateMemory=int? sharedMemory=int? swappedMemory=int? balloonedMemory=int?
    consumedOverheadMemory=int? ftLogBandwidth=int? ftSecondaryLatency=int? ftLatencyStatus=%ManagedEntityStatus? compressedMemory=long?
    uptimeSeconds=int? ssdSwappedMemory=long? activeMemory=int?
VirtualMachineRelocateSpec: folder=&Folder? datastore=&Datastore? diskMoveType=string? pool=&ResourcePool? host=&HostSystem?
    disk=VirtualMachineRelocateSpecDiskLocator* transform=%VirtualMachineRelocateTransformation? deviceChange=VirtualDeviceConfigSpec*
VirtualMachineRelocateSpecDiskLocator: diskId=int datastore=&Datastore diskMoveType=string? diskBackingInfo=VirtualDeviceBackingInfo?
VirtualMachineRuntimeInfo: device=VirtualMachineDeviceRuntimeInfo* host=&HostSystem? connectionState=%VirtualMachineConnectionState
    powerState=%VirtualMachinePowerState vmFailoverInProgress=boolean? faultToleranceState=%VirtualMachineFaultToleranceState
    toolsInstallerMounted=boolean suspendTime=dateTime? bootTime=dateTime? suspendInterval=long? memoryOverhead=long? maxCpuUsage=int?
    maxMemoryUsage=int? numMksConnections=int recordReplayState=%VirtualMachineRecordReplayState cleanPowerOff=boolean? needSecondaryReason=string?
    onlineStandby=boolean minRequiredEVCModeKey=string? consolidationNeeded=boolean vFlashCacheAllocation=long? paused=boolean?
    snapshotInBackground=boolean? quiescedForkParent=boolean? instantCloneFrozen=boolean? cryptoState=string? suspendedToMemory=boolean?
    opNotificationTimeout=long? iommuActive=boolean?
VirtualMachineSnapshotInfo: currentSnapshot=&VirtualMachineSnapshot? rootSnapshotList=VirtualMachineSnapshotTree+
VirtualMachineSnapshotTree: snapshot=&VirtualMachineSnapshot vm=&VirtualMachine name=string description=string id=int createTime=dateTime
    state=%VirtualMachinePowerState quiesced=boolean backupManifest=string? childSnapshotList=VirtualMachineSnapshotTree* replaySupported=boolean?
VirtualMachineStorageInfo: perDatastoreUsage=VirtualMachineUsageOnDatastore* timestamp=dateTime
VirtualMachineStorageSummary: committed=long uncommitted=long unshared=long timestamp=dateTime
VirtualMachineSummary: vm=&VirtualMachine? runtime=VirtualMachineRuntimeInfo guest=VirtualMachineGuestSummary? config=VirtualMachineConfigSummary
    storage=VirtualMachineStorageSummary? quickStats=VirtualMachineQuickStats overallStatus=%ManagedEntityStatus
VirtualMachineUsageOnDatastore: datastore=&Datastore committed=long uncommitted=long unshared=long
VirtualMachineVMCIDevice(VirtualDevice): id=long? allowUnrestrictedCommunication=boolean? filterEnable=boolean?
VirtualMachineVideoCard(VirtualDevice): videoRamSizeInKB=long? numDisplays=int? useAutoDetect=boolean? enable3DSupport=boolean? use3dRenderer=string?
    graphicsMemorySizeInKB=long?
VirtualNVMEController(VirtualController): sharedBus=string?
VirtualNicManagerNetConfig: nicType=string multiSelectAllowed=boolean candidateVnic=HostVirtualNic* selectedVnic=string*
VirtualPCIController(VirtualController):
VirtualPCNet32(VirtualEthernetCard):
VirtualPS2Controller(VirtualController):
VirtualPointingDevice(VirtualDevice):
VirtualSATAController(VirtualController):
VirtualSCSIController(VirtualController): hotAddRemove=boolean? sharedBus=%VirtualSCSISharing scsiCtlrUnitNumber=int?
VirtualSIOController(VirtualController):
VirtualSerialPort(VirtualDevice): yieldOnPoll=boolean
VirtualSerialPortFileBackingInfo(VirtualDeviceFileBackingInfo):
VirtualTPM(VirtualDevice): endorsementKeyCertificateSigningRequest=base64Binary* endorsementKeyCertificate=base64Binary*
VirtualUSBController(VirtualController): autoConnectDevices=boolean? ehciEnabled=boolean?
VirtualUSBXHCIController(VirtualController): autoConnectDevices=boolean?
VirtualVmxnet(VirtualEthernetCard):
VirtualVmxnet2(VirtualVmxnet):
VirtualVmxnet3(VirtualVmxnet): uptv2Enabled=boolean?
VmCloneEvent(VmEvent):
VmClonedEvent(VmCloneEvent): sourceVm=VmEventArgument
VmConfigFault(VimFault):
VmConfigFileInfo(FileInfo): configVersion=int?
VmConfigFileQuery(FileQuery): filter=VmConfigFileQueryFilter? details=VmConfigFileQueryFlags?
VmConfigFileQueryFilter: matchConfigVersion=int* encrypted=boolean?
VmConfigFileQueryFlags: configVersion=boolean encryption=boolean?
VmCreatedEvent(VmEvent):
VmDiskFileInfo(FileInfo): diskType=TypeName? capacityKb=long? hardwareVersion=int? controllerType=TypeName? diskExtents=string* thin=boolean?
VmDiskFileQuery(FileQuery): filter=VmDiskFileQueryFilter? details=VmDiskFileQueryFlags?
VmDiskFileQueryFilter: diskType=TypeName* matchHardwareVersion=int* controllerType=TypeName* thin=boolean? encrypted=boolean?
VmDiskFileQueryFlags: diskType=boolean capacityKb=boolean hardwareVersion=boolean controllerType=boolean? diskExtents=boolean? thin=boolean?
    encryption=boolean?
VmEvent(Event): template=boolean
VmEventArgument(EntityEventArgument): vm=&VirtualMachine
VmGuestRebootEvent(VmEvent):
VmGuestShutdownEvent(VmEvent):
VmLogFileInfo(FileInfo):
VmLogFileQuery(FileQuery):
VmNvramFileInfo(FileInfo):
VmNvramFileQuery(FileQuery):
VmPoweredOffEvent(VmEvent):
VmPoweredOnEvent(VmEvent):
VmReconfiguredEvent(VmEvent): configSpec=VirtualMachineConfigSpec
VmRemovedEvent(VmEvent):
VmResettingEvent(VmEvent):
VmSnapshotFileInfo(FileInfo):
VmSnapshotFileQuery(FileQuery):
VmSuspendedEvent(VmEvent):
VmfsDatastoreInfo(DatastoreInfo): maxPhysicalRDMFileSize=long maxVirtualRDMFileSize=long vmfs=HostVmfsVolume?
VsanDatastoreInfo(DatastoreInfo): membershipUuid=string? accessGenNo=int?
WaitOptions: maxWaitSeconds=int? maxObjectUpdates=int?
"""

MANAGED_TYPES: Final = """
ServiceInstance: serverClock=dateTime capability=Capability content=ServiceContent
  .CurrentTime() -> dateTime
  .RetrieveServiceContent() -> ServiceContent
SessionManager: sessionList=UserSession* currentSession=UserSession? message=string? messageLocaleList=string* supportedLocaleList=string*
    defaultLocale=string
  .Login(userName=string password=string locale=string?) -> UserSession
  .Logout()
  .TerminateSession(sessionId=string+)
  .SessionIsActive(sessionID=string userName=string) -> boolean
  .AcquireGenericServiceTicket(spec=SessionManagerServiceRequestSpec) -> SessionManagerGenericServiceTicket
PropertyCollector: filter=&PropertyFilter*
  .CreateFilter(spec=PropertyFilterSpec partialUpdates=boolean) -> &PropertyFilter
  .RetrieveProperties(specSet=PropertyFilterSpec+) -> ObjectContent*
  .RetrievePropertiesEx(specSet=PropertyFilterSpec+ options=RetrieveOptions) -> RetrieveResult?
  .ContinueRetrievePropertiesEx(token=string) -> RetrieveResult
  .CancelRetrievePropertiesEx(token=string)
  .CheckForUpdates(version=string?) -> UpdateSet?
  .WaitForUpdates(version=string?) -> UpdateSet
  .WaitForUpdatesEx(version=string? options=WaitOptions?) -> UpdateSet?
  .CancelWaitForUpdates()
  .CreatePropertyCollector() -> &PropertyCollector
  .DestroyPropertyCollector()
PropertyFilter: spec=PropertyFilterSpec partialUpdates=boolean
  .DestroyPropertyFilter()
ViewManager: viewList=&View*
  .CreateContainerView(container=&ManagedEntity type=TypeName* recursive=boolean) -> &ContainerView
  .CreateListView(obj=&ManagedObjectReference*) -> &ListView
View:
  .DestroyView()
ManagedObjectView(View): view=&ManagedObjectReference*
ContainerView(ManagedObjectView): container=&ManagedEntity type=TypeName* recursive=boolean
ListView(ManagedObjectView):
  .ModifyListView(add=&ManagedObjectReference* remove=&ManagedObjectReference*) -> &ManagedObjectReference*
  .ResetListView(obj=&ManagedObjectReference*) -> &ManagedObjectReference*
SearchIndex:
  .FindByUuid(datacenter=&Datacenter? uuid=string vmSearch=boolean instanceUuid=boolean?) -> &ManagedEntity?
  .FindByInventoryPath(inventoryPath=string) -> &ManagedEntity?
  .FindChild(entity=&ManagedEntity name=string) -> &ManagedEntity?
  .FindByDnsName(datacenter=&Datacenter? dnsName=string vmSearch=boolean) -> &ManagedEntity?
  .FindByIp(datacenter=&Datacenter? ip=string vmSearch=boolean) -> &ManagedEntity?
  .FindByDatastorePath(datacenter=&Datacenter path=string) -> &VirtualMachine?
  .FindAllByUuid(datacenter=&Datacenter? uuid=string vmSearch=boolean instanceUuid=boolean?) -> &ManagedEntity+
  .FindAllByDnsName(datacenter=&Datacenter? dnsName=string vmSearch=boolean) -> &ManagedEntity+
  .FindAllByIp(datacenter=&Datacenter? ip=string vmSearch=boolean) -> &ManagedEntity+
TaskManager: recentTask=&Task* description=TaskDescription maxCollector=int
ExtensibleManagedObject: value=CustomFieldValue* availableField=CustomFieldDef*
Task(ExtensibleManagedObject): info=TaskInfo
  .CancelTask()
ManagedEntity(ExtensibleManagedObject): parent=&ManagedEntity? customValue=CustomFieldValue* overallStatus=%ManagedEntityStatus
    configStatus=%ManagedEntityStatus configIssue=Event* effectiveRole=int* permission=Permission* name=string disabledMethod=MethodName*
    recentTask=&Task* declaredAlarmState=AlarmState* triggeredAlarmState=AlarmState* alarmActionsEnabled=boolean? tag=Tag*
  .Rename_Task(newName=string) -> &Task
  .Destroy_Task() -> &Task
Folder(ManagedEntity): childType=TypeName* childEntity=&ManagedEntity* namespace=string?
Datacenter(ManagedEntity): vmFolder=&Folder hostFolder=&Folder datastoreFolder=&Folder networkFolder=&Folder datastore=&Datastore* network=&Network*
    configuration=DatacenterConfigInfo
  .PowerOnMultiVM_Task(vm=&VirtualMachine+ option=OptionValue*) -> &Task
ComputeResource(ManagedEntity): resourcePool=&ResourcePool? host=&HostSystem* datastore=&Datastore* network=&Network* summary=ComputeResourceSummary
    environmentBrowser=&EnvironmentBrowser? configurationEx=ComputeResourceConfigInfo lifecycleManaged=boolean? configManagerEnabled=boolean?
ClusterComputeResource(ComputeResource): summaryEx=ClusterComputeResourceSummary
HostSystem(ManagedEntity): runtime=HostRuntimeInfo summary=HostListSummary hardware=HostHardwareInfo? capability=HostCapability?
    configManager=HostConfigManager config=HostConfigInfo? vm=&VirtualMachine* datastore=&Datastore* network=&Network*
    datastoreBrowser=&HostDatastoreBrowser
HostAutoStartManager: config=HostAutoStartManagerConfig
  .ReconfigureAutostart(spec=HostAutoStartManagerConfig)
ResourcePool(ManagedEntity): summary=ResourcePoolSummary runtime=ResourcePoolRuntimeInfo owner=&ComputeResource resourcePool=&ResourcePool*
    vm=&VirtualMachine* config=ResourceConfigSpec namespace=string? childConfiguration=ResourceConfigSpec*
Network(ManagedEntity): summary=NetworkSummary host=&HostSystem* vm=&VirtualMachine*
DistributedVirtualPortgroup(Network): key=string config=DVPortgroupConfigInfo portKeys=string*
DistributedVirtualSwitch(ManagedEntity): uuid=string summary=DVSSummary config=DVSConfigInfo portgroup=&DistributedVirtualPortgroup*
VmwareDistributedVirtualSwitch(DistributedVirtualSwitch):
Datastore(ManagedEntity): info=DatastoreInfo summary=DatastoreSummary host=DatastoreHostMount* vm=&VirtualMachine* browser=&HostDatastoreBrowser
    capability=DatastoreCapability
  .RefreshDatastore()
  .RefreshDatastoreStorageInfo()
HostDatastoreBrowser: datastore=&Datastore* supportedType=FileQuery*
  .SearchDatastore_Task(datastorePath=string searchSpec=HostDatastoreBrowserSearchSpec?) -> &Task
  .SearchDatastoreSubFolders_Task(datastorePath=string searchSpec=HostDatastoreBrowserSearchSpec?) -> &Task?
VirtualMachine(ManagedEntity): capability=VirtualMachineCapability config=VirtualMachineConfigInfo? layoutEx=VirtualMachineFileLayoutEx?
    storage=VirtualMachineStorageInfo? environmentBrowser=&EnvironmentBrowser resourcePool=&ResourcePool? parentVApp=&ManagedEntity?
    resourceConfig=ResourceConfigSpec? runtime=VirtualMachineRuntimeInfo guest=GuestInfo? summary=VirtualMachineSummary datastore=&Datastore*
    network=&Network* snapshot=VirtualMachineSnapshotInfo? rootSnapshot=&VirtualMachineSnapshot* guestHeartbeatStatus=%ManagedEntityStatus
  .RefreshStorageInfo()
  .PowerOnVM_Task(host=&HostSystem?) -> &Task
  .PowerOffVM_Task() -> &Task
  .SuspendVM_Task() -> &Task
  .ResetVM_Task() -> &Task
  .ShutdownGuest()
  .RebootGuest()
  .CreateSnapshot_Task(name=string description=string? memory=boolean quiesce=boolean) -> &Task
  .CreateSnapshotEx_Task(name=string description=string? memory=boolean quiesceSpec=VirtualMachineGuestQuiesceSpec?) -> &Task
  .RemoveAllSnapshots_Task(consolidate=boolean? spec=SnapshotSelectionSpec?) -> &Task
  .RevertToCurrentSnapshot_Task(host=&HostSystem? suppressPowerOn=boolean?) -> &Task
  .ReconfigVM_Task(spec=VirtualMachineConfigSpec) -> &Task
  .ExportVm() -> &HttpNfcLease
  .CloneVM_Task(folder=&Folder name=string spec=VirtualMachineCloneSpec) -> &Task
  .MarkAsTemplate()
  .MarkAsVirtualMachine(pool=&ResourcePool host=&HostSystem?)
  .ConsolidateVMDisks_Task() -> &Task
  .QueryChangedDiskAreas(snapshot=&VirtualMachineSnapshot? deviceKey=int startOffset=long changeId=string) -> DiskChangeInfo
VirtualMachineSnapshot(ExtensibleManagedObject): config=VirtualMachineConfigInfo childSnapshot=&VirtualMachineSnapshot* vm=&VirtualMachine
  .RevertToSnapshot_Task(host=&HostSystem? suppressPowerOn=boolean?) -> &Task
  .RemoveSnapshot_Task(removeChildren=boolean consolidate=boolean?) -> &Task
  .RenameSnapshot(name=string? description=string?)
  .ExportSnapshot() -> &HttpNfcLease
HttpNfcLease: initializeProgress=int transferProgress=int mode=string capabilities=HttpNfcLeaseCapabilities info=HttpNfcLeaseInfo?
    state=%HttpNfcLeaseState error=LocalizedMethodFault?
  .HttpNfcLeaseGetManifest() -> HttpNfcLeaseManifestEntry*
  .HttpNfcLeaseSetManifestChecksumType(deviceUrlsToChecksumTypes=KeyValue*)
  .HttpNfcLeaseComplete()
  .HttpNfcLeaseAbort(fault=LocalizedMethodFault?)
  .HttpNfcLeaseProgress(percent=int)
OvfManager:
  .CreateDescriptor(obj=&ManagedEntity cdp=OvfCreateDescriptorParams) -> OvfCreateDescriptorResult
EventManager: description=EventDescription latestEvent=Event? maxCollector=int
  .CreateCollectorForEvents(filter=EventFilterSpec) -> &EventHistoryCollector
  .QueryEvents(filter=EventFilterSpec) -> Event*
HistoryCollector: filter=anyType
  .SetCollectorPageSize(maxCount=int)
  .DestroyCollector()
  .RewindCollector()
  .ResetCollector()
EventHistoryCollector(HistoryCollector): latestPage=Event* initialized=boolean?
  .ReadNextEvents(maxCount=int) -> Event*
  .ReadPreviousEvents(maxCount=int) -> Event*
AuthorizationManager: privilegeList=AuthorizationPrivilege* roleList=AuthorizationRole*
  .HasPrivilegeOnEntities(entity=&ManagedEntity+ sessionId=string privId=string*) -> EntityPrivilege*
  .FetchUserPrivilegeOnEntities(entities=&ManagedEntity+ userName=string) -> UserPrivilegeResult*
  .HasPrivilegeOnEntity(entity=&ManagedEntity sessionId=string privId=string*) -> boolean*
LicenseManager: sourceAvailable=boolean featureInfo=LicenseFeatureInfo* licensedEdition=string licenses=LicenseManagerLicenseInfo+
    licenseAssignmentManager=&LicenseAssignmentManager?
FileManager:
  .DeleteDatastoreFile_Task(name=string datacenter=&Datacenter?) -> &Task
  .MakeDirectory(name=string datacenter=&Datacenter? createParentDirectories=boolean?)
VirtualApp(ResourcePool): parentFolder=&Folder? datastore=&Datastore* network=&Network* parentVApp=&ManagedEntity?
VirtualDiskManager:
  .QueryVirtualDiskUuid(name=string datacenter=&Datacenter?) -> string
OptionManager: supportedOption=OptionDef* setting=OptionValue*
"""
