"""The app in the browser, and an HTTP interface for programs. Needs the extra `app`."""
