"""Makes what several folders of tests share importable: `takeover`."""
