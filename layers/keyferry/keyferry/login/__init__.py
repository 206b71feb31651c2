"""Login: from whatever proves who somebody is to a session on one device."""
