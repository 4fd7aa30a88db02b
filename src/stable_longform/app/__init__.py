"""The app in the browser, and the same model for programs over HTTP. Needs the extra `app`."""
