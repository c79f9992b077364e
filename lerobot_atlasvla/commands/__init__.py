"""Commands behind the console scripts: atlasvla-check, atlasvla-cache, and the policy server."""
