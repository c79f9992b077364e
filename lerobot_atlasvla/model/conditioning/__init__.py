"""What the action queries know of the scene before they attend to it."""
