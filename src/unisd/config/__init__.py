"""From a YAML file and overrides to checked objects; every fault is one readable `ConfigError`."""
