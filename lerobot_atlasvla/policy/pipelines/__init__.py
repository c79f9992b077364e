"""Steps of the policy's pre- and postprocessing, and what a saved pipeline may hold."""
