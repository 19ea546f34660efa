def fetch_missing(workspace, manifest): pass
