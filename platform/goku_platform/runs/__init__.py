"""The use cases, one file a verb. Each takes a client; none makes one, and none prints."""
