"""VMware's disk format: ``layout`` has the structures, ``stream`` decodes, ``writer`` writes streamOptimized,
``reader`` opens local files."""
