"""The map from vSphere's faults to our errors: every name in it is real, and every fault there is has a place in it."""

from __future__ import annotations

import http.client
import socket
import ssl
from collections.abc import Iterator
from xml.parsers.expat import ExpatError

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyVmomi import VmomiSupport, vim, vmodl

from hypersdk.errors import (
    AccessError,
    ConnectError,
    HyperSDKError,
    LookupFailed,
    Refused,
    SourceError,
    TransientError,
)
from hypersdk.vsphere.faults import _RULES, clean_text, lineage, rule_for, translate


def _all_faults() -> Iterator[type]:
    """Every fault type that the SDK knows."""
    for kind in list(VmomiSupport.GetWsdlTypes()):
        if isinstance(kind, type) and issubclass(kind, vmodl.MethodFault):
            yield kind


def test_every_name_in_the_table_is_a_fault_of_the_sdk() -> None:
    for name in _RULES:
        assert issubclass(VmomiSupport.GetWsdlType("urn:vim25", name), vmodl.MethodFault), name


def test_every_fault_of_the_sdk_becomes_an_error_of_ours() -> None:
    faults = list(_all_faults())
    assert len(faults) > 300
    for kind in faults:
        error = translate(kind(msg="said by the server"))
        assert isinstance(error, HyperSDKError)
        assert error.fields["fault"] == kind.__name__.rpartition(".")[2]


@pytest.mark.parametrize(
    ("fault", "family", "code"),
    [
        (vim.fault.InvalidLogin(), AccessError, "login_refused"),
        (vim.fault.PasswordExpired(), AccessError, "login_refused"),
        (vim.fault.NotAuthenticated(), AccessError, "not_authenticated"),
        (vim.fault.NoPermission(), AccessError, "privilege_missing"),
        (vmodl.fault.ManagedObjectNotFound(), LookupFailed, "object_gone"),
        (vim.fault.InvalidPowerState(), Refused, "power_state"),
        (vim.fault.TaskInProgress(), Refused, "busy"),
        (vim.fault.VAppTaskInProgress(), Refused, "busy"),
        (vim.fault.ResourceInUse(), Refused, "busy"),
        (vim.fault.RestrictedVersion(), Refused, "license_refuses_export"),
        (vmodl.fault.NotSupported(), Refused, "not_supported"),
        (vmodl.fault.MethodNotFound(), Refused, "not_supported"),
        (vmodl.fault.HostNotConnected(), SourceError, "host_disconnected"),
        (vim.fault.Timedout(), TransientError, "operation_timeout"),
        (vim.fault.NoDiskSpace(), SourceError, "datastore_full"),
        (vim.fault.FileLocked(), SourceError, "file_locked"),
        (vim.fault.FileNotFound(), SourceError, "file_fault"),
        (vim.fault.ApplicationQuiesceFault(), SourceError, "quiesce_failed"),
        (vim.fault.TooManySnapshotLevels(), SourceError, "snapshot_failed"),
        (vim.fault.ToolsUnavailable(), Refused, "tools_unavailable"),
        (vmodl.fault.RequestCanceled(), SourceError, "task_cancelled"),
        (vmodl.fault.SystemError(msg="Failed to allocate memory for NFC"), TransientError, "nfc_exhausted"),
        (vim.fault.GenericVmConfigFault(msg="NFC_NO_MEMORY"), TransientError, "nfc_exhausted"),
        (vmodl.fault.SystemError(msg="other"), SourceError, "vsphere_fault"),
        (vmodl.fault.InvalidArgument(), SourceError, "vsphere_fault"),
    ],
)
def test_faults(fault: Exception, family: type[HyperSDKError], code: str) -> None:
    error = translate(fault)
    assert type(error) is family
    assert error.code == code


def test_a_missing_privilege_is_named_with_its_object() -> None:
    error = translate(vim.fault.NoPermission(object=vim.VirtualMachine("vm-7"), privilegeId="VApp.Export"))
    assert error.message == "the privilege VApp.Export is missing on VirtualMachine:vm-7"
    assert (error.fields["privilege"], error.fields["object"]) == ("VApp.Export", "VirtualMachine:vm-7")


def test_the_text_of_a_refused_login_is_not_repeated() -> None:
    error = translate(vim.fault.InvalidLogin(msg="Cannot log in as root with hunter2"))
    assert "hunter2" not in repr(error.as_dict())


def test_the_first_messages_stand_in_for_a_missing_text() -> None:
    fault = vim.fault.VimFault(faultMessage=[vmodl.LocalizableMessage(key="k", message="disk is odd")])
    assert "disk is odd" in translate(fault).message


@pytest.mark.parametrize(
    ("exc", "code"),
    [
        (socket.gaierror(-2, "Name or service not known"), "name_unresolved"),
        (ConnectionRefusedError(111, "Connection refused"), "connection_refused"),
        (TimeoutError("timed out"), "connect_timeout"),
        (ConnectionResetError(104, "Connection reset by peer"), "connect_failed"),
        (OSError("Tunnel connection failed: 407 Proxy Authentication Required"), "connect_failed"),
        (ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] wrong version number"), "tls_failed"),
        (ssl.SSLCertVerificationError(1, "self-signed"), "certificate_unknown"),
        (http.client.RemoteDisconnected("closed"), "connect_failed"),
        (http.client.IncompleteRead(b"", 9), "connect_failed"),
        (http.client.HTTPException("502 Bad Gateway"), "bad_answer"),
        (http.client.BadStatusLine("SSH-2.0"), "bad_answer"),
        (ExpatError("not well-formed"), "bad_answer"),
    ],
)
def test_broken_connections(exc: Exception, code: str) -> None:
    error = translate(exc, "vc.example.com")
    assert type(error) is ConnectError
    assert error.code == code
    assert "vc.example.com" in error.message


def test_an_error_of_ours_stays_and_a_bug_is_raised_as_it_is() -> None:
    own = SourceError("x")
    assert translate(own) is own
    with pytest.raises(ZeroDivisionError):
        translate(ZeroDivisionError())


def test_lineage_leads_from_the_fault_to_its_ancestors() -> None:
    assert lineage(vim.fault.NoDiskSpace)[:4] == ["NoDiskSpace", "FileFault", "VimFault", "MethodFault"]


@given(st.lists(st.text(max_size=30), max_size=5), st.text(max_size=2000))
def test_any_names_and_any_text_have_a_rule_and_one_clean_line(names: list[str], text: str) -> None:
    assert issubclass(rule_for(names, text)[0], HyperSDKError)
    shown = clean_text(text)
    assert len(shown) <= 500
    assert shown.isprintable()
