"""The vSphere adapter: the only place that imports pyVmomi."""
