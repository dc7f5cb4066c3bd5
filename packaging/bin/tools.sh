#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# tools.sh - RocketMQ's quickstart by the class names that its documentation says:
#   export NAMESRV_ADDR=localhost:9876
#   sh bin/tools.sh org.apache.rocketmq.example.quickstart.Producer
ZARYA_HERE=$(dirname "$(readlink -f "$0")")
. "$ZARYA_HERE/zarya-common.sh"

class=$1
[ $# -gt 0 ] && shift
case $class in
org.apache.rocketmq.example.quickstart.Producer) mode=producer ;;
org.apache.rocketmq.example.quickstart.Consumer) mode=consumer ;;
org.apache.rocketmq.tools.command.MQAdminStartup) exec sh "$ZARYA_HERE/mqadmin" "$@" ;;
*)
    [ -n "$class" ] && echo "tools.sh: $class is a Java class that is not here."
    echo "Here are: org.apache.rocketmq.example.quickstart.Producer, org.apache.rocketmq.example.quickstart.Consumer"
    exit 1
    ;;
esac
program=$(zarya_program zarya-quickstart) || exit 1
exec "$program" "$mode" "$@"
