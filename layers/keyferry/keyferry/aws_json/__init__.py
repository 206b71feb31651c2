"""AWS's JSON protocol, as much of it as answering a request takes: DynamoDB and KMS, by
Signature Version 4, over connections that are kept.

boto3 does the same for every service there is, and takes several times the processor time for it;
docs/performance.md has the figures. What is sent, signed and read here is held against botocore in
the tests, call by call.
"""
