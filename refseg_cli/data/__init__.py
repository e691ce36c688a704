"""Raw annotations to Parquet shards, shards to batches."""
