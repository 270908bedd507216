"""ServiceInstance: the entry point of every client."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

from hypersdk.simulator.managed import Call, Managed, operation
from hypersdk.simulator.values import Data
from hypersdk.simulator.world import now

API_VERSION: Final = "8.0.3.0"
PRIOR_VERSIONS: Final = (
    "8.0.2.0",
    "8.0.1.0",
    "8.0.0.1",
    "7.0.3.2",
    "7.0.2.0",
    "7.0.1.0",
    "7.0.0.0",
    "6.7.3",
    "6.7",
    "6.5",
    "6.0",
    "5.5",
)
PRODUCT_VERSION: Final = "8.0.3"
BUILD: Final = "24322831"

VERSIONS_XML: Final = (
    '<?xml version="1.0" encoding="UTF-8"?>\n<namespaces version="1.0"><namespace><name>urn:vim25</name>'
    f"<version>{API_VERSION}</version><priorVersions>"
    + "".join(f"<version>{version}</version>" for version in PRIOR_VERSIONS)
    + "</priorVersions></namespace></namespaces>"
)
"""``/sdk/vimServiceVersions.xml``."""


def about(*, esxi: bool, instance_uuid: str) -> Data:
    """The API's ``AboutInfo``; with every member that libvirt reads."""
    product = "VMware ESXi" if esxi else "VMware vCenter Server"
    return Data(
        "AboutInfo",
        name=product,
        fullName=f"{product} {PRODUCT_VERSION} build-{BUILD} (HyperSDK simulator)",
        vendor="VMware, Inc.",
        version=PRODUCT_VERSION,
        build=BUILD,
        localeVersion="INTL",
        localeBuild="000",
        osType="vmnix-x86" if esxi else "linux-x64",
        productLineId="embeddedEsx" if esxi else "vpx",
        apiType="HostAgent" if esxi else "VirtualCenter",
        apiVersion=API_VERSION,
        instanceUuid=None if esxi else instance_uuid,
        licenseProductName="VMware ESX Server" if esxi else "VMware VirtualCenter Server",
        licenseProductVersion="8.0",
    )


class ServiceInstance(Managed, api_type="ServiceInstance", computed={"serverClock": lambda _instance: now()}):
    """The service instance."""

    @operation("RetrieveServiceContent")
    def _content(self, _call: Call) -> Any:
        return self.values["content"]

    @operation("CurrentTime")
    def _time(self, _call: Call) -> datetime:
        return now()
