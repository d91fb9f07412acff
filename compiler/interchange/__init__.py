"""The formats of others: netx (lava-dl's `.net`), NIR, and configurations of Loihi's cores.

Each format has a folder's worth of files here under its name: `*_file` reads what nobody may trust,
`*_import` makes an artifact of it, `*_export` writes one. To add a format, write these, and name
them in `lapilli/importers.py` and `lapilli/cli_export.py`.
"""
