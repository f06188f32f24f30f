#!/bin/sh
# A Sentinel that watches the master under the name `feast`; what it learns is kept in its file.
# It has no password: whoever asks it shows a certificate of our authority.
set -eu
umask 077
port=${PORT:-26379}
data=${DATA:-/data}
if [ ! -s "$data/sentinel.conf" ]; then
    cat >"$data/sentinel.conf" <<CONF
port 0
tls-port $port
tls-cert-file $CERTS/tls.crt
tls-key-file $CERTS/tls.key
tls-ca-cert-file $CERTS/ca.crt
tls-auth-clients yes
tls-replication yes
dir $data
sentinel resolve-hostnames yes
sentinel announce-hostnames yes
sentinel announce-ip $NAME$DOMAIN
sentinel monitor feast $FIRST ${FIRST_PORT:-6379} $QUORUM
sentinel auth-pass feast $REDIS_PASSWORD
sentinel down-after-milliseconds feast 1000
sentinel failover-timeout feast 10000
sentinel parallel-syncs feast 1
CONF
fi
exec redis-sentinel "$data/sentinel.conf"
