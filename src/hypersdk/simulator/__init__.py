"""An embedded vCenter/ESXi over HTTPS/SOAP, for the demo, for rehearsals and for fault injection."""
