#!/usr/bin/env bash
# A real Apache Kafka (KRaft) on loopback for tests, from Maven's jars: no Docker, no download site.
#
#   kafka.sh install            resolve the jars (once)
#   kafka.sh start [N]          format and start N brokers (1 or 3), wait until each accepts connections
#   kafka.sh stop               stop all brokers started here (SIGTERM)
#   kafka.sh kill I             kill -9 broker I
#   kafka.sh pause I | resume I SIGSTOP / SIGCONT broker I
#   kafka.sh revive I           start broker I again on its own data
#   kafka.sh wipe               stop and delete the data (jars stay)
#   kafka.sh bootstrap [sasl]   print the bootstrap list of the plain (or SASL_SSL) listeners
#
# KAFKA_DIR   jars, data, logs, pids         (default: undercurrent/kafka in the user's cache folder)
# KAFKA_PORT  first plain port; broker I uses PORT+100*(I-1) plain, +1 controller, +2 SASL_SSL (default: 19092)
# KAFKA_SASL  1 adds a SASL_SSL listener with SCRAM-SHA-512, user app, password app-secret, CA in $KAFKA_DIR/tls/ca.pem;
#             and user guest, password guest-secret, who may do nothing
# KAFKA_HEAP  heap of one broker             (default: 768m for one, 512m each for three)
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
dir=${KAFKA_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/undercurrent/kafka}
port=${KAFKA_PORT:-19092}
sasl=${KAFKA_SASL:-0}
mkdir -p "$dir"; dir=$(cd "$dir" && pwd)
java_opts=(-XX:+UseSerialGC -Djava.awt.headless=true "-Dlog4j2.configurationFile=file:$here/log4j2.properties" "-Dkafka.logs.dir=$dir/logs")

plain_port() { echo $((port + 100 * ($1 - 1))); }
brokers() { ls "$dir/conf" 2>/dev/null | sed -n 's/^broker-\(.*\)\.properties$/\1/p' | sort -n; }

bootstrap() { # [sasl]
  local i out=() offset=0
  [ "${1:-}" = sasl ] && offset=2
  for i in $(brokers); do out+=("127.0.0.1:$(($(plain_port "$i") + offset))"); done
  (IFS=,; echo "${out[*]}")
}

install() {
  [ -f "$dir/libs/.complete" ] && return 0
  mvn -q -B -f "$here/pom.xml" org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies \
    -DincludeScope=runtime "-DoutputDirectory=$dir/libs"
  touch "$dir/libs/.complete"
}

tls() { # a CA and one server key for 127.0.0.1 and localhost, PEM
  [ -f "$dir/tls/server.pem" ] && return 0
  mkdir -p "$dir/tls"
  (cd "$dir/tls"
   openssl req -x509 -newkey rsa:2048 -nodes -days 365 -subj /CN=test-ca -keyout ca.key -out ca.pem
   openssl req -newkey rsa:2048 -nodes -subj /CN=localhost -keyout server.key -out server.csr
   openssl x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 365 \
     -extfile <(echo "subjectAltName=DNS:localhost,IP:127.0.0.1") -out server.crt
   openssl pkcs8 -topk8 -nocrypt -in server.key -out server.pk8
   cat server.pk8 server.crt ca.pem > server.pem) 2>/dev/null
}

configure() { # i n
  local i=$1 n=$2 rf=1 isr=1 p listeners map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SASL_SSL:SASL_SSL
  p=$(plain_port "$i")
  [ "$n" -gt 1 ] && { rf=3; isr=2; }
  listeners="PLAINTEXT://127.0.0.1:$p"
  [ "$sasl" = 1 ] && listeners+=",SASL_SSL://127.0.0.1:$((p + 2))"
  mkdir -p "$dir/conf"
  {
    cat <<CONF
process.roles=broker,controller
node.id=$i
listeners=$listeners,CONTROLLER://127.0.0.1:$((p + 1))
advertised.listeners=$listeners,CONTROLLER://127.0.0.1:$((p + 1))
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
listener.security.protocol.map=$map
log.dirs=$dir/data-$i
auto.create.topics.enable=false
num.partitions=4
default.replication.factor=$rf
min.insync.replicas=$isr
offsets.topic.replication.factor=$rf
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=$rf
transaction.state.log.min.isr=$isr
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=$rf
share.coordinator.state.topic.min.isr=$isr
# Tests want short waits; production wants Kafka's defaults here.
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
transaction.abort.timed.out.transaction.cleanup.interval.ms=1000
controlled.shutdown.enable=true
log.cleaner.threads=1
log.cleaner.dedupe.buffer.size=33554432
log.cleaner.backoff.ms=1000
log.segment.bytes=67108864
log.index.size.max.bytes=1048576
num.network.threads=2
num.io.threads=4
num.replica.fetchers=1
CONF
    if [ "$n" -gt 1 ]; then
      local voters=() v
      for v in $(seq "$n"); do voters+=("$v@127.0.0.1:$(($(plain_port "$v") + 1))"); done
      (IFS=,; echo "controller.quorum.voters=${voters[*]}")
    else
      echo "controller.quorum.bootstrap.servers=127.0.0.1:$((p + 1))"
    fi
    if [ "$sasl" = 1 ]; then
      cat <<CONF
sasl.enabled.mechanisms=SCRAM-SHA-512
listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
ssl.keystore.type=PEM
ssl.keystore.location=$dir/tls/server.pem
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS;User:app
CONF
    fi
  } > "$dir/conf/broker-$i.properties"
}

storage_tool() { java "${java_opts[@]}" -cp "$dir/libs/*" kafka.tools.StorageTool "$@"; }

launch() { # i
  local i=$1 n heap
  n=$(brokers | wc -l)
  heap=${KAFKA_HEAP:-$([ "$n" -gt 1 ] && echo 512m || echo 768m)}
  mkdir -p "$dir/logs"
  setsid nohup java -Xms128m "-Xmx$heap" "${java_opts[@]}" -cp "$dir/libs/*" kafka.Kafka "$dir/conf/broker-$i.properties" \
    >> "$dir/logs/broker-$i.log" 2>&1 < /dev/null &
  echo $! > "$dir/broker-$i.pid"
}

alive() { [ -f "$dir/broker-$1.pid" ] && kill -0 "$(cat "$dir/broker-$1.pid")" 2>/dev/null; }

await() { # i: until the broker accepts connections, at most 300 s: a machine that builds beside it is slow
  local i=$1 tries=0
  until (exec 3<>"/dev/tcp/127.0.0.1/$(plain_port "$i")") 2>/dev/null; do
    alive "$i" || { echo "kafka: broker $i died; see $dir/logs/broker-$i.log" >&2; tail -5 "$dir/logs/broker-$i.log" >&2; exit 1; }
    tries=$((tries + 1)); [ "$tries" -lt 1500 ] || { echo "kafka: broker $i not ready after 300 s" >&2; exit 1; }
    sleep 0.2
  done
}

start() { # n
  local n=${1:-1} i id format=()
  install
  [ "$sasl" = 1 ] && tls
  if [ -z "$(brokers)" ]; then
    id=$(storage_tool random-uuid)
    [ "$n" -eq 1 ] && format+=(--standalone)
    [ "$sasl" = 1 ] && format+=(--add-scram 'SCRAM-SHA-512=[name=app,password=app-secret]' --add-scram 'SCRAM-SHA-512=[name=guest,password=guest-secret]')
    for i in $(seq "$n"); do configure "$i" "$n"; done
    for i in $(seq "$n"); do storage_tool format "${format[@]}" -t "$id" -c "$dir/conf/broker-$i.properties" > /dev/null; done
  fi
  for i in $(brokers); do alive "$i" || launch "$i"; done
  for i in $(brokers); do await "$i"; done
  bootstrap
}

signal() { # name broker
  [ -f "$dir/broker-$2.pid" ] || { echo "kafka: broker $2 was not started here" >&2; exit 1; }
  kill "-$1" "$(cat "$dir/broker-$2.pid")"
}

stop() {
  local i
  for i in $(brokers); do if alive "$i"; then signal TERM "$i"; fi; done
  for i in $(brokers); do
    for _ in $(seq 100); do alive "$i" || break; sleep 0.1; done
    if alive "$i"; then signal KILL "$i"; fi
    rm -f "$dir/broker-$i.pid"
  done
}

case ${1:-} in
  install) install ;;
  start) start "${2:-1}" ;;
  stop) stop ;;
  kill) signal KILL "$2" ;;
  pause) signal STOP "$2" ;;
  resume) signal CONT "$2" ;;
  revive) launch "$2"; await "$2" ;;
  wipe) stop; rm -rf "$dir"/data-* "$dir"/broker-*.pid "$dir/conf" "$dir/logs" ;;
  bootstrap) bootstrap "${2:-}" ;;
  *) sed -n '2,20s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac
