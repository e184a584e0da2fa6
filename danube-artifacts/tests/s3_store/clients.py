"""What boto3 and urllib do with a bucket: clients.py URL BUCKET (read | write KEY LEN | follow METHOD URL HEADERS BODY)."""
import hashlib, io, json, sys, urllib.error, urllib.request
import boto3
from boto3.s3.transfer import TransferConfig

url, bucket, what, *rest = sys.argv[1:]

def client():
    return boto3.client("s3", endpoint_url=url, region_name="us-east-1",
                        aws_access_key_id="a", aws_secret_access_key="b")

if what == "read":
    s3 = client()
    found = []
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket):
        for entry in page.get("Contents", []):
            body = s3.get_object(Bucket=bucket, Key=entry["Key"])["Body"].read()
            found.append(f"{entry['Key']}\t{len(body)}\t{hashlib.sha256(body).hexdigest()}")
    print("\n".join(sorted(found)))
elif what == "write":
    key, length = rest
    body = bytes(at % 251 for at in range(int(length)))
    config = TransferConfig(multipart_threshold=5 * 2**20, multipart_chunksize=5 * 2**20)
    client().upload_fileobj(io.BytesIO(body), bucket, key, Config=config)
elif what == "follow":
    method, link, headers, body = rest
    data = body.encode() if method == "PUT" else None
    headers = dict(json.loads(headers))
    if data is not None:
        # urllib would call it a form.
        headers["Content-Type"] = "application/octet-stream"
    request = urllib.request.Request(link, data=data, method=method, headers=headers)
    try:
        with urllib.request.urlopen(request) as answer:
            print(answer.status, answer.read().decode())
    except urllib.error.HTTPError as refused:
        print(refused.code, refused.read().decode())
