#!/bin/sh
# Makes the files anew, with OpenSSL 3 and its legacy provider. The key is for tests only.
set -eu
cd "$(dirname "$0")"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
password='päss €'
request="-x509 -nodes -newkey ec -pkeyopt ec_paramgen_curve:P-256 -days 36500"
# shellcheck disable=SC2086 # a list of words
openssl req $request -keyout "$work/ca.key" -out "$work/ca.pem" -subj "/CN=test CA" 2>/dev/null
openssl req -nodes -newkey ec -pkeyopt ec_paramgen_curve:P-256 -keyout "$work/key.pem" -out "$work/leaf.csr" \
    -subj "/CN=midward" 2>/dev/null
openssl x509 -req -in "$work/leaf.csr" -CA "$work/ca.pem" -CAkey "$work/ca.key" -days 36500 -out "$work/leaf.pem" 2>/dev/null
openssl x509 -in "$work/leaf.pem" -outform DER -out leaf.der
openssl pkcs8 -topk8 -nocrypt -in "$work/key.pem" -outform DER -out key.der
make() {
    out=$1
    shift
    openssl pkcs12 -export -inkey "$work/key.pem" -in "$work/leaf.pem" -certfile "$work/ca.pem" -out "$out" "$@"
}
make openssl3.pfx -passout "pass:$password"
make legacy.pfx -legacy -passout "pass:$password"
make rc2-128.pfx -legacy -certpbe PBE-SHA1-RC2-128 -keypbe PBE-SHA1-RC2-128 -passout "pass:$password"
make triple-des.pfx -certpbe PBE-SHA1-3DES -keypbe PBE-SHA1-3DES -macalg sha1 -passout "pass:$password"
make sha512.pfx -certpbe AES-128-CBC -keypbe AES-192-CBC -macalg sha512 -iter 1000 -passout "pass:$password"
make unencrypted-certificates.pfx -certpbe NONE -keypbe AES-256-CBC -passout "pass:$password"
make no-mac.pfx -nomac -passout "pass:$password"
make no-password.pfx -passout pass:
python3 - <<'P'
# The same as openssl3.pfx, with every outer length left open and the outermost octet string in two pieces.
def element(b, i=0):
    tag, n, j = b[i], b[i + 1], i + 2
    if n & 0x80:
        k = n & 0x7F
        n = int.from_bytes(b[j:j + k], "big")
        j += k
    return tag, b[j:j + n], j + n
def der(tag, content):
    n = len(content)
    length = bytes([n]) if n < 128 else (lambda d: bytes([0x80 | len(d)]) + d)(n.to_bytes((n.bit_length() + 7) // 8, "big"))
    return bytes([tag]) + length + content
def open_(tag, content):
    return bytes([tag, 0x80]) + content + b"\0\0"
pfx = element(open("openssl3.pfx", "rb").read())[1]
_, version, at = element(pfx)
_, info, end = element(pfx, at)
_, oid, after = element(info)
explicit = element(info, after)[1]
octets = element(explicit)[1]
half = len(octets) // 2
pieces = open_(0x24, der(4, octets[:half]) + der(4, octets[half:]))
info = open_(0x30, der(6, oid) + open_(0xA0, pieces))
open("indefinite.pfx", "wb").write(open_(0x30, der(2, version) + info + pfx[end:]))
P
