#!/bin/sh
# What failures look like: a measurement that fails, a line that is wrong, and a plugin that ends.
# `coms plugin test fails` shows what is understood of each, and how to mend it.

echo '{"v":1,"failed":"cannot connect to the service"}'
sleep 1
echo 'the service is slow today'                 # words for people belong on standard error
sleep 1
echo '{"v":1,"latency_ms":"12"}'                 # a number has no quotes
sleep 1
echo 'giving up' >&2
exit 1 # an execd plugin runs on; coms-plugins starts it again, later each time
