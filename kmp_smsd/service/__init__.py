"""The only room with a reactor: links, intake, dispatch and their wiring."""
