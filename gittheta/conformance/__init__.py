"""The conformance suites, one module for each kind of plugin. Import them from :mod:`gittheta.testing`."""
