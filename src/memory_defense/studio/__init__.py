"""The studio: a web page on this machine to play with trained defenses; see `app` and `server`."""
