#!/bin/sh
# Instead of tests: loads the programs and attaches them, as `truepeer run` does, and connects through
# them to an application; then those of UDP, by a daemon.
set -e
ip link set lo up
httpd -p 127.0.0.1:80
httpd -p '[::1]:80'
truepeer check -v --listen 127.0.0.1:8080 '[::1]:8080' --target4 127.0.0.1:80 --target6 '[::1]:80' \
    --allow 127.0.0.1/32 ::1/128
truepeer run -v -p udp --listen 127.0.0.1:8053 '[::1]:8053' --target4 127.0.0.1:53 --target6 '[::1]:53' \
    --allow 127.0.0.1/32 ::1/128 &
until truepeer status; do
    kill -0 $!
    sleep 1
done
kill $!
wait $!
