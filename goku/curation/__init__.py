"""Raw footage to clips that training reads: gates, shots, motion, captions, tiers, shards."""
