#!/bin/sh
# Makes the certificates in this directory anew. Needs OpenSSL 3 and xxd.
set -eu
cd "$(dirname "$0")"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

END=99991231235959Z
BEGIN=20250101000000Z
key() { openssl genpkey -algorithm ED25519 -out "$work/$1.key" 2>/dev/null; }
serial() { printf '%02x%s' $(($(od -An -N1 -tu1 /dev/urandom) % 127 + 1)) "$(openssl rand -hex 15)"; }

# sign NAME CA SUBJECT EXTENSIONS
sign() {
    openssl req -new -key "$work/$1.key" -subj "$3" -out "$work/$1.csr"
    printf '%b' "$4" > "$work/$1.ext"
    mkdir -p "$work/db" && : > "$work/db/index"
    if [ "$1" = ephemeral ]; then echo 01; else serial; fi > "$work/db/serial"
    cat > "$work/ca.conf" <<CONF
[ca]
default_ca = it
[it]
database = $work/db/index
serial = $work/db/serial
new_certs_dir = $work/db
default_md = default
policy = any
unique_subject = no
[any]
commonName = optional
CONF
    self=""
    if [ "$1" = "$2" ]; then self="-selfsign"; fi
    openssl ca -batch -notext -config "$work/ca.conf" -in "$work/$1.csr" -keyfile "$work/$2.key" $self \
        $( [ "$1" = "$2" ] || printf -- '-cert %s' "$2.pem" ) \
        -startdate $BEGIN -enddate $END -extfile "$work/$1.ext" -out "$1.pem" 2>/dev/null
}

AUTHORITY='basicConstraints=critical,CA:TRUE\nkeyUsage=critical,digitalSignature,keyCertSign,cRLSign\nextendedKeyUsage=clientAuth,serverAuth,OCSPSigning\nsubjectKeyIdentifier=hash\n'
LEAF='basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature,keyEncipherment\nauthorityKeyIdentifier=keyid\nsubjectKeyIdentifier=none\n'

for name in ca other-ca node owner ephemeral; do key $name; done
openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$work/ecdsa.key" 2>/dev/null
sign ca ca "/CN=Metropolis Cluster CA" "$AUTHORITY"
sign other-ca other-ca "/CN=Metropolis Cluster CA" "$AUTHORITY"
id="metropolis-$(openssl pkey -in "$work/node.key" -pubout -outform DER | tail -c 32 | head -c 16 | xxd -p)"
sign node ca "/CN=$id" "${LEAF}extendedKeyUsage=serverAuth\nsubjectAltName=DNS:$id\n"
sign owner ca "/CN=owner" "${LEAF}extendedKeyUsage=clientAuth\n"
sign ecdsa ca "/CN=owner" "${LEAF}extendedKeyUsage=clientAuth\n"
sign ephemeral ephemeral "/" 'basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature,keyEncipherment,keyCertSign\nextendedKeyUsage=clientAuth\nsubjectKeyIdentifier=none\nauthorityKeyIdentifier=none\n'
