"""What lies on disk under the indexers: one SQLite database per shard, and the faiss index that is rebuilt from it."""
