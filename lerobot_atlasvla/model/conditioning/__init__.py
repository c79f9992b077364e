"""Condition the action queries on keypoints or landmarks of the views, before they attend to anything."""
