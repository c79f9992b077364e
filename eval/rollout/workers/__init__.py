"""One rollout and the processes that do them."""
