"""XML that libvirt answers."""

from __future__ import annotations

from typing import Any

from lxml import etree

from hypersdk.errors import TargetError
from hypersdk.kvm.library import LIBVIRT_FAILED


def parsed(text: str) -> Any:
    """The root element; no entity is resolved. Raises TargetError for what is not XML."""
    parser = etree.XMLParser(resolve_entities=False, no_network=True)
    try:
        return etree.fromstring(text.encode(), parser)
    except etree.XMLSyntaxError as error:
        raise TargetError("libvirt's answer is not XML", code=LIBVIRT_FAILED) from error
