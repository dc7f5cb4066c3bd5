/* SPDX-License-Identifier: Apache-2.0 */
/* apache_why.c - why keys of Apache's store (MessageStoreConfig) have no effect here. A name ends with * for all that begin so. A
 * key that has a place (apache_keys.c, and a plugin that knows the option) is not looked up: then it has an effect. */
#include "config/config.h"

static const struct {
    const char *why, *names;
} rows[] = {
    { "a flush takes what gathered during the one before it, and counts no pages",
      "flushCommitLogLeastPages flushCommitLogThoroughInterval flushCommitLogTimed commitCommitLogLeastPages commitCommitLogThoroughInterval "
      "commitIntervalCommitLog wakeCommitWhenPutMessage wakeFlushWhenPutMessage flushConsumeQueueLeastPages flushConsumeQueueThoroughInterval "
      "flushIntervalConsumeQueue enableRunningFlagsInFlush" },
    { "records are written by one call for each batch into files that are made ahead: there is no pool, no lock and no mapping to tune",
      "transientStorePool* fastFailIfNoBufferInStorePool writeWithoutMmap useReentrantLockWhenPutMessage useABSLock "
      "spinLockCollisionRetreatOptimalDegree topicQueueLockNum osPageCacheBusyTimeOutMills warmMapedFileEnable "
      "flushLeastPagesWhenWarmMapedFile putConsumeQueueDataByFileChannel sharedByteBufferNum putMessageTimeout debugLockEnable "
      "maxAsyncPutMessageRequests" },
    { "files are opened and closed by use (open_segments, open_queue_files)",
      "mappedFileSwapEnable commitLogForceSwapMapInterval commitLogSwapMap* logicQueueForceSwapMapInterval logicQueueSwapMap* "
      "cleanSwapedMapInterval" },
    { "segments go one at a time, and a reader that holds one keeps its bytes until it is done",
      "deleteCommitLogFilesInterval deleteConsumeQueueFilesInterval deleteFileBatchMax destroyMapedFileIntervalForcibly "
      "redeleteHangedFileInterval maxBatchDeleteFilesNum logicalDiskSpaceCleanForciblyThreshold replicasPerDiskPartition "
      "correctLogicMinOffset* enableCleanExpiredOffset" },
    { "a recovery decides by what it finds, and always checks what another process wrote",
      "checkCRCOnRecover checkCommitLogOffsetOnRecover commitLogRecoverMaxNum maxRecoveryCommitlogFiles enableAcceleratedRecovery "
      "recheckReputOffsetFromCq enableLogConsumeQueueRepeatedlyBuildWhenRecover" },
    { "queue entries are made with the append, and the index behind it, on a thread that sends never wait for",
      "duplicationEnable enableAsyncReput dispatchC* dispatchFromSenderThread enableBuildConsumeQueueConcurrently "
      "batchDispatchRequestThreadPoolNums readUnCommitted putMsgIndexHightWater messageIndexSafe" },
    { "there is no RocksDB here",
      "rocksdb* combineCQ* combineAssignOffsetCQType bottomMostCompressionTypeForConsumeQueueStore memTableFlushIntervalMs "
      "iteratorWhenUseRocksdbConsumeQueue realTimePersistRocksDBConfig cleanRocksDBDirtyCQIntervalMin statRocksDBCQIntervalSec enableRocksDBLog "
      "indexFileReadEnable indexFileWriteEnable indexRocksDBEnable maxRocksDBIndexQueryDays timerRocksDB* timerRecallToTime* "
      "timerReputService* transRocksDB* transWriteOriginTransHalfEnable useSeparate* useRocksDB*" },
    { "nothing is replicated by this configuration",
      "ha* syncMasterFlushOffsetWhenStartup syncFromLastFile slaveTimeout totalReplicas minInSyncReplicas allAckInSyncStateSet "
      "asyncLearner dLeger* preferredLeaderId enableBatchPush enableAutoInSyncReplicas storePathDLedgerCommitLog storePathEpochFile "
      "storePathBrokerIdentity offsetCheckInSlave maxSlaveResendLength maxHaTransferByteInSecond maxChecksumRange" },
    { "batch queues have the form that is found, records the one that their topic needs, and bit maps the length that "
      "expectConsumerNumUseFilter and maxErrorRateOfBloomFilter say",
      "bitMapLengthConsumeQueueExt mapperFileSizeBatchConsumeQueue "
      "searchBcqByCacheEnable autoMessageVersionOnTopicLen maxTopicLength" },
    { "topics are not compacted here", "compaction* enableCompaction maxOffsetMapSize" },
    { "there are no light message queues here", "enableLmq enableLmqQuota enableMultiDispatch maxLmqConsumeQueueNum" },
    { "what is not in memory is read by workers, and bounded by maxTransferBytesOnMessageInDisk and maxTransferCountOnMessageInDisk",
      "accessMessageInMemoryHotRatio coldDataScanEnable coldCtrStrategyEnable usePIDColdCtrStrategy timerColdDataCheckIntervalMs sampleSteps sampleCountThreshold maxConsumeQueueScan "
      "maxFilterMessageSize travelCqFileNumWhenGetMessage diskFallRecorded pullBatchMaxMessageCount" },
    { "a query's answer has the bounds of feature-query", "defaultQueryMaxNum maxMsgsNumBatch" },
    { "delayed messages are delivered without it",
      "timer* enableScheduleAsyncDeliver enableScheduleMessageStats scheduleAsyncDeliver* flushDelayOffsetInterval disappearTimeAfterStart" },
};

static uint32_t names(struct zr_str list, struct zr_str key)
{
    struct zr_str name;
    while (zl_split(&list, ' ', &name)) {
        uint32_t all = name.len && name.ptr[name.len - 1] == '*';
        if (all ? key.len >= name.len - 1 && memcmp(key.ptr, name.ptr, name.len - 1) == 0 : zl_eq(name, key))
            return 1;
    }
    return 0;
}

const char *zk_apache_why(const char *key)
{
    for (uint32_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        if (names(zl_str(rows[i].names), zl_str(key)))
            return rows[i].why;
    return NULL;
}
