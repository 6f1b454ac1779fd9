"""One module a family of formats; each has `FORMATS`, and a function a format that gives the normal form."""
