"""A copy of a run on a store (S3, GCS, the Hub), for machines whose disk may go with them."""
