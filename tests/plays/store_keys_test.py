#!/usr/bin/env python3
"""Every key of Apache's store (MessageStoreConfig of 5.5.0) in a broker.conf: its value arrives in the setting of the plugin or of the
broker that has it, or the start says that it has no effect here, and why; or refuses it, when ignoring it would break a promise."""
import os, re, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from zarya import *

KEYS = """
accessMessageInMemoryHotRatio accessMessageInMemoryMaxRatio allAckInSyncStateSet appendTopicForTimerDeleteKey
asyncLearner autoMessageVersionOnTopicLen batchDispatchRequestThreadPoolNums bitMapLengthConsumeQueueExt
bottomMostCompressionTypeForConsumeQueueStore brokerRole checkCRCOnRecover checkCommitLogOffsetOnRecover
cleanFileForciblyEnable cleanResourceInterval cleanRocksDBDirtyCQIntervalMin cleanSwapedMapInterval
coldDataFlowControlEnable coldDataScanEnable combineAssignOffsetCQType combineCQEnableCheckSelf combineCQLoadingCQTypes
combineCQMaxExtraSearchCommitLogFiles combineCQPreferCQType combineCQUseRocksdbForLmq commitCommitLogLeastPages
commitCommitLogThoroughInterval commitIntervalCommitLog commitLogForceSwapMapInterval commitLogRecoverMaxNum
commitLogSwapMapInterval commitLogSwapMapReserveFileNum compactionCqMappedFileSize compactionMappedFileSize
compactionScheduleInternal compactionThreadNum correctLogicMinOffsetForceInterval correctLogicMinOffsetSleepInterval
dLegerGroup dLegerPeers dLegerSelfId dataReadAheadEnable debugLockEnable defaultQueryMaxNum
deleteCommitLogFilesInterval deleteConsumeQueueFilesInterval deleteFileBatchMax deleteWhen
destroyMapedFileIntervalForcibly disappearTimeAfterStart diskFallRecorded diskMaxUsedSpaceRatio
diskSpaceCleanForciblyRatio diskSpaceWarningLevelRatio dispatchCqCacheNum dispatchCqThreads dispatchFromSenderThread
duplicationEnable enableAcceleratedRecovery enableAsyncReput enableAutoInSyncReplicas enableBatchPush
enableBuildConsumeQueueConcurrently enableCleanExpiredOffset enableCompaction enableConsumeQueueExt
enableDLegerCommitLog enableLmq enableLmqQuota enableLogConsumeQueueRepeatedlyBuildWhenRecover enableMultiDispatch
enableRocksDBLog enableRunningFlagsInFlush enableScheduleAsyncDeliver enableScheduleMessageStats enabledAppendPropCRC
fastFailIfNoBufferInStorePool fileReservedTime flushCommitLogLeastPages flushCommitLogThoroughInterval
flushCommitLogTimed flushConsumeQueueLeastPages flushConsumeQueueThoroughInterval flushDelayOffsetInterval
flushDiskType flushIntervalCommitLog flushIntervalConsumeQueue flushLeastPagesWhenWarmMapedFile forceVerifyPropCRC
haFlowControlEnable haHousekeepingInterval haListenPort haMasterAddress haMaxGapNotInSync haMaxTimeSlaveNotCatchup
haSendHeartbeatInterval haTransferBatchSize inSyncReplicas indexFileReadEnable indexFileWriteEnable indexRocksDBEnable
iteratorWhenUseRocksdbConsumeQueue logicQueueForceSwapMapInterval logicQueueSwapMapInterval
logicQueueSwapMapReserveFileNum logicalDiskSpaceCleanForciblyThreshold mappedFileSizeCommitLog
mappedFileSizeConsumeQueue mappedFileSizeConsumeQueueExt mappedFileSizeTimerLog mappedFileSwapEnable
mapperFileSizeBatchConsumeQueue maxAsyncPutMessageRequests maxBatchDeleteFilesNum maxChecksumRange maxConsumeQueueScan
maxFilterMessageSize maxHaTransferByteInSecond maxHashSlotNum maxIndexNum maxLmqConsumeQueueNum maxMessageSize
maxMsgsNumBatch maxOffsetMapSize maxRecoveryCommitlogFiles maxRocksDBIndexQueryDays maxSlaveResendLength maxTopicLength
maxTransferBytesOnMessageInDisk maxTransferBytesOnMessageInMemory maxTransferCountOnMessageInDisk
maxTransferCountOnMessageInMemory memTableFlushIntervalMs messageDelayLevel messageIndexEnable messageIndexSafe
minInSyncReplicas offsetCheckInSlave osPageCacheBusyTimeOutMills preferredLeaderId pullBatchMaxMessageCount
putConsumeQueueDataByFileChannel putMessageTimeout putMsgIndexHightWater readOnlyCommitLogStorePaths readUnCommitted
realTimePersistRocksDBConfig recheckReputOffsetFromCq redeleteHangedFileInterval replicasPerDiskPartition
rocksdbCQDoubleWriteEnable rocksdbCompressionType rocksdbFlushWalFrequency rocksdbWalFileRollingThreshold
sampleCountThreshold sampleSteps scheduleAsyncDeliverMaxPendingLimit scheduleAsyncDeliverMaxResendNum2Blocked
searchBcqByCacheEnable sharedByteBufferNum slaveTimeout spinLockCollisionRetreatOptimalDegree statRocksDBCQIntervalSec
storePathBrokerIdentity storePathCommitLog storePathDLedgerCommitLog storePathEpochFile storePathRootDir storeType
syncFlushTimeout syncFromLastFile syncMasterFlushOffsetWhenStartup timerCheckMetricsWhen timerColdDataCheckIntervalMs
timerCongestNumEachSlot timerEnableCheckMetrics timerEnableDisruptor timerEnableRetryUntilSuccess timerFlushIntervalMs
timerGetMessageThreadNum timerInterceptDelayLevel timerMaxDelaySec timerMetricSmallThreshold timerPrecisionMs
timerProgressLogIntervalMs timerPutMessageThreadNum timerRecallToTimeWheelEnable timerRecallToTimelineEnable
timerReputServiceCorePoolSize timerReputServiceMaxPoolSize timerReputServiceQueueCapacity timerRocksDBEnable
timerRocksDBPrecisionMs timerRocksDBRollIntervalHours timerRocksDBRollMaxTps timerRocksDBRollRangeHours
timerRocksDBStopScan timerRocksDBTimeExpiredMaxTps timerRollWindowSlot timerSkipUnknownError timerStopDequeue
timerStopEnqueue timerWarmEnable timerWheelEnable timerWheelSnapshotFlush timerWheelSnapshotIntervalMs
topicQueueLockNum totalReplicas transRocksDBEnable transWriteOriginTransHalfEnable transientStorePoolEnable
transientStorePoolSize travelCqFileNumWhenGetMessage useABSLock useReentrantLockWhenPutMessage
useSeparateStorePathForRocksdbCQ wakeCommitWhenPutMessage wakeFlushWhenPutMessage warmMapedFileEnable writeWithoutMmap
""".split()
# key: (value, what --print-config then has). Values are none of the defaults.
HONOURED = {
    "accessMessageInMemoryMaxRatio": ("37", "memory_ratio = 0.37;"),
    "cleanFileForciblyEnable": ("false", "clean_forcibly = false;"),
    "cleanResourceInterval": ("7000", 'clean_interval = "7 s";'),
    "deleteWhen": ("05;17", 'delete_when = "05;17";'),
    "diskMaxUsedSpaceRatio": ("61", "disk_clean_ratio = 0.61;"),
    "diskSpaceCleanForciblyRatio": ("62", "disk_force_ratio = 0.62;"),
    "diskSpaceWarningLevelRatio": ("63", "disk_refuse_ratio = 0.63;"),
    "enableConsumeQueueExt": ("true", "queue_extents = true;"),
    "enabledAppendPropCRC": ("true", "property_crc = true;"),
    "fileReservedTime": ("49", 'retention_hours = "49 h";|retention_hours = 49;'),
    "flushDiskType": ("SYNC_FLUSH", 'flush = "sync";'),
    "flushIntervalCommitLog": ("321", 'flush_interval = "321 ms";'),
    "forceVerifyPropCRC": ("true", "property_crc_check = true;"),
    "mappedFileSizeCommitLog": ("67108864", 'segment_size = "64 MiB";'),
    "mappedFileSizeConsumeQueue": ("40000", "queue_file_size = 40000;"),
    "mappedFileSizeConsumeQueueExt": ("65536", 'queue_extent_file_size = "64 KiB";|queue_extent_file_size = 65536;'),
    "maxHashSlotNum": ("12345", "index_slots = 12345;"),
    "maxIndexNum": ("54321", "index_entries = 54321;"),
    "maxMessageSize": ("8388608", 'max_message_size = "8 MiB";'),
    "maxTransferBytesOnMessageInDisk": ("131072", 'cold_bytes = "128 KiB";'),
    "maxTransferBytesOnMessageInMemory": ("524288", 'hot_bytes = "512 KiB";'),
    "maxTransferCountOnMessageInDisk": ("9", "cold_messages = 9;"),
    "maxTransferCountOnMessageInMemory": ("33", "hot_messages = 33;"),
    "messageDelayLevel": ("2s 9s 1m", 'delay_levels = "2s 9s 1m";'),
    "messageIndexEnable": ("false", "index = false;"),
    "readOnlyCommitLogStorePaths": ("/x/old", 'path_commitlog_read_only = "/x/old";'),
    "storePathCommitLog": ("/x/a,/x/b", 'path_commitlog = "/x/a,/x/b";'),
    "storePathRootDir": ("/x/root", 'data = "/x/root";'),
    "syncFlushTimeout": ("4321", "syncFlushTimeout = 4321;|syncFlushTimeout = \"4321 ms\";"),
    "brokerRole": ("SYNC_MASTER", 'brokerRole = "SYNC_MASTER";'),
}
# Each by itself: beside brokerRole=SYNC_MASTER it would wait for copies that nobody makes, and is refused.
ALONE = {"inSyncReplicas": ("2", "inSyncReplicas = 2;")}
REFUSED = {"enableDLegerCommitLog": "true", "storeType": "defaultRocksDB"}
TEXT = {"dLegerGroup": "g", "storePathEpochFile": "/x/e"}


def zarya(text, *args):
    d = temp_dir()
    conf = os.path.join(d, "broker.conf")
    with open(conf, "w") as f:
        f.write("brokerName=b\n" + text)
    r = subprocess.run([os.path.join(BUILD, "bin/zarya"), "broker", "-c", conf, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=60)
    return r.returncode, r.stdout, r.stderr


def main():
    check(len(KEYS) > 210 and set(HONOURED) | set(REFUSED) <= set(KEYS), "the list is whole", (set(HONOURED) | set(REFUSED)) - set(KEYS))
    status, out, err = zarya("".join(f"{k}={v}\n" for k, (v, _) in HONOURED.items()), "--print-config")
    check(status == 0, "a broker.conf of all that is honoured is taken", err[-800:])
    for key, (value, wanted) in HONOURED.items():
        check(any(w in out for w in wanted.split("|")), f"{key} = {value} arrives", re.findall(wanted.split(" = ")[0] + " = .*", out))
    for key, (value, wanted) in ALONE.items():
        check(wanted in zarya(f"{key}={value}\n", "--print-config")[1], f"{key} = {value} arrives")
    plain = zarya("", "--print-config")[1]
    check(not [k for k, (_, w) in HONOURED.items() if any(x in plain for x in w.split("|"))], "and none of these values is the default",
          [k for k, (_, w) in HONOURED.items() if any(x in plain for x in w.split("|"))])

    rest = [k for k in KEYS if k not in HONOURED and k not in ALONE and k not in REFUSED]
    status, out, err = zarya("".join(f"{k}={TEXT.get(k, 1)}\n" for k in rest), "--print-config")
    check(status == 0, "a broker.conf of all the others is taken", err[-800:])
    told = {}
    for line in err.splitlines():
        m = re.search(r"these keys have no effect here, because (.*): ([A-Za-z0-9, ]*)$", line)
        for k in m.group(2).split(", ") if m else ():
            told[k] = m.group(1)
    check(not re.search("these keys have no effect here:", err), "no key of the store is without effect and without a reason",
          re.findall("these keys have no effect here:.*", err))
    elsewhere = [k for k in rest if k not in told]  # honoured by a feature: then its setting differs from the default's
    silent = []
    for k in elsewhere:
        same = [zarya(f"{k}={v}\n", "--print-config") for v in ("true", "false", "100", "5000", "20000", "200000")]
        if not any(o != plain for _, o, _ in same):
            silent.append(k)
    check(not silent, f"{len(told)} keys are told to have no effect, and {len(elsewhere)} have one elsewhere: {' '.join(elsewhere)}", silent)
    for key, value in REFUSED.items():
        status, out, err = zarya(f"{key}={value}\n", "--check")
        check(status == 1 and f"{key} = {value}: " in err, f"{key} = {value} is refused", err)
    done()


main()
