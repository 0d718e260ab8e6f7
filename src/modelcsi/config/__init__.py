"""What an administrator decides: the configuration file and the environment, as checked values.

`model` has every key with its default and meaning, `environment` every variable (nothing else reads one), `file` turns YAML into
a Config, `source` watches the file. `hack/gen-docs` writes docs/configuration.md from the first two. The values are immutable
and safe in any thread; `cli` reads them once and hands them on.
"""
