"""Asks as `pyaim` does, an independent client of CyberArk's: one JSON object on standard input, one on standard output."""

import json
import sys

from pyaim import CCPPasswordREST, CLIPasswordSDK

order = json.load(sys.stdin)
try:
    if order["through"] == "ccp":
        cert = tuple(order["cert"]) if order.get("cert") else None
        client = CCPPasswordREST(order["url"], order.get("service", "AIMWebService"), verify=order["ca"], cert=cert)
        client.check_service()
    else:
        client = CLIPasswordSDK(order["path"])
    answer = {"found": client.GetPassword(**order["ask"])}
except Exception as error:  # What it raises is its answer here.
    answer = {"raised": type(error).__name__, "text": str(error)}
json.dump(answer, sys.stdout)
