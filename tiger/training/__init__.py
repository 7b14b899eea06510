"""What training scripts share: settings from YAML and the command line, runs that go on where they were."""
