"""Dense heads: forward, loss, candidates, predict."""
