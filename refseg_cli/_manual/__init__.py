"""Man pages, static shell completions and the list of recipes, made from the app and the recipes themselves:
`python -m refseg_cli._manual [--check]`.

They are written once, committed, and installed with the wheel, so that TAB starts no Python and `man refseg` needs no
build step.
"""
