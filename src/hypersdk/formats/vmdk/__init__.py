"""VMware's disk format: ``layout`` has the facts, ``stream`` decodes, ``writer`` makes streamOptimized, ``reader``
opens local files."""
