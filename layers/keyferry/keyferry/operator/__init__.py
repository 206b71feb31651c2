"""What the operator can do. There is no public admin endpoint: only IAM lets anybody in here."""
