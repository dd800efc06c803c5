#!/bin/sh
# What has become of a job: running (or waiting), success or failed.
state=$(qstat -f "$1" 2>/dev/null)
known=$?
state=$(echo "$state" | sed -n 's/.*job_state = //p')

# 153: the job is known no more. After any other error it is asked for again later.
if [ "$known" != 153 ] && [ "$state" != C ] && [ "$state" != F ]; then
    echo running
# Listing the folder makes a network's file system look again.
elif ls .snakemake/finished 2>/dev/null | grep -qxF "$1"; then
    echo success
else
    echo failed
fi
