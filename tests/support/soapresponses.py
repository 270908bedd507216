"""Responses of a vCenter to a login, for servers that misbehave afterwards."""

from __future__ import annotations

ENVELOPE = (
    '<?xml version="1.0" encoding="UTF-8"?><e:Envelope xmlns:e="http://schemas.xmlsoap.org/soap/envelope/"'
    ' xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"'
    ' xmlns:xsd="http://www.w3.org/2001/XMLSchema"><e:Body>{}</e:Body></e:Envelope>'
)
VERSIONS = (
    b'<namespaces version="1.0"><namespace><name>urn:vim25</name><version>8.0.3.0</version></namespace></namespaces>'
)
CONTENT = (
    '<RetrieveServiceContentResponse xmlns="urn:vim25"><returnval><rootFolder'
    ' type="Folder">group-d1</rootFolder><propertyCollector'
    ' type="PropertyCollector">propertyCollector</propertyCollector><about><name>n</name><fullName>f'
    "</fullName><vendor>v</vendor><version>8.0.3</version><build>1</build><osType>linux</osType>"
    "<productLineId>vpx</productLineId><apiType>VirtualCenter</apiType><apiVersion>8.0.3.0</apiVersion>"
    "</about><sessionManager"
    ' type="SessionManager">SessionManager</sessionManager></returnval></RetrieveServiceContentResponse>'
)
LOGIN = (
    '<LoginResponse xmlns="urn:vim25"><returnval><key>k{}</key><userName>u</userName><fullName>u</fullName>'
    "<loginTime>2026-01-01T00:00:00Z</loginTime><lastActiveTime>2026-01-01T00:00:00Z</lastActiveTime>"
    "<locale>en</locale><messageLocale>en</messageLocale></returnval></LoginResponse>"
)
LOGOUT = '<LogoutResponse xmlns="urn:vim25"/>'
OBJECT = (
    '<objects><obj type="Folder">{}</obj><propSet><name>name</name><val'
    ' xsi:type="xsd:string">n</val></propSet></objects>'
)
