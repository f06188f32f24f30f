#!/bin/sh
# A Redis that finds its place: replica of the master that Sentinels know, or, where they know
# none yet, of the first pod. Settings that hold a secret never appear among its arguments.
#   NAME      this pod's name, as redis-0        DOMAIN  what follows it in its address
#   SENTINEL  address of any Sentinel            CERTS   folder of tls.crt, tls.key, ca.crt
set -eu
umask 077
port=${PORT:-6379}
data=${DATA:-/data}
own=$NAME$DOMAIN
tls="--tls --cert $CERTS/tls.crt --key $CERTS/tls.key --cacert $CERTS/ca.crt"

# shellcheck disable=SC2086 # words, on purpose
master=$(timeout 5 redis-cli $tls -h "$SENTINEL" -p "${SENTINEL_PORT:-26379}" \
    sentinel get-master-addr-by-name feast 2>/dev/null || true)
place=$(printf '%s\n' "$master" | tr '\n' ' ')
case $place in
    *' '[0-9]*) ;;
    *) place="${FIRST:-redis-0$DOMAIN} ${FIRST_PORT:-$port}" ;;
esac
follows=""
[ "${place% }" = "$own $port" ] || follows="replicaof $place"

cat >"$data/redis.conf" <<CONF
port 0
tls-port $port
tls-cert-file $CERTS/tls.crt
tls-key-file $CERTS/tls.key
tls-ca-cert-file $CERTS/ca.crt
tls-auth-clients yes
tls-replication yes
tls-protocols "TLSv1.2 TLSv1.3"
requirepass $REDIS_PASSWORD
masterauth $REDIS_PASSWORD
dir $data
appendonly yes
appendfsync everysec
maxmemory ${MAXMEMORY:-1gb}
maxmemory-policy allkeys-lru
replica-announce-ip $own
min-replicas-to-write 0
timeout 0
tcp-keepalive 60
rename-command FLUSHALL ""
rename-command DEBUG ""
$follows
CONF
exec redis-server "$data/redis.conf"
