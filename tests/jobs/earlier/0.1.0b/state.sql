BEGIN TRANSACTION;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0004');
CREATE TABLE api_tokens (
	id VARCHAR(128) NOT NULL, 
	user_id VARCHAR(128) NOT NULL, 
	label VARCHAR(200) NOT NULL, 
	digest VARCHAR(64) NOT NULL, 
	scope VARCHAR(16) NOT NULL, 
	created_at DOUBLE NOT NULL, 
	expires_at DOUBLE, 
	used_at DOUBLE, 
	PRIMARY KEY (id), 
	FOREIGN KEY(user_id) REFERENCES users (id) ON DELETE CASCADE, 
	UNIQUE (digest)
);
CREATE TABLE attempts (
	job_id VARCHAR(128) NOT NULL, 
	epoch INTEGER NOT NULL, 
	attempt INTEGER NOT NULL, 
	worker_id VARCHAR(128) NOT NULL, 
	started_at DOUBLE NOT NULL, 
	ended_at DOUBLE, 
	outcome VARCHAR(16), 
	error JSON, 
	PRIMARY KEY (job_id, epoch), 
	FOREIGN KEY(job_id) REFERENCES jobs (id) ON DELETE CASCADE
);
INSERT INTO "attempts" VALUES('job-5b6e28771fb8',1,1,'w844c52b995ab1941',@T-29.655@,@T-17.063@,'fail','{"code": "corrupt_grain", "message": "Hard disk 2: the block at guest offset 0 is damaged: Error -6 Incorrect checksum found", "cause": "A compressed block fails its own checksum.", "next_step": "`hyperctl retry ID` goes on from there; if it repeats at the same offset, the source disk is damaged.", "exit_status": 8, "offset": 0}');
INSERT INTO "attempts" VALUES('job-22418c27b8f9',1,1,'w844c52b995ab1941',@T-29.648@,@T-16.523@,'paused','null');
INSERT INTO "attempts" VALUES('job-9d6ac231e42c',1,1,'w844c52b995ab1941',@T-14.730@,NULL,NULL,'null');
INSERT INTO "attempts" VALUES('job-d956a84f3cca',1,1,'w844c52b995ab1941',@T-14.727@,NULL,NULL,'null');
CREATE TABLE audit (
	number INTEGER NOT NULL, 
	at DOUBLE NOT NULL, 
	actor VARCHAR(200) NOT NULL, 
	address VARCHAR(64) NOT NULL, 
	action VARCHAR(64) NOT NULL, 
	object TEXT NOT NULL, 
	outcome VARCHAR(32) NOT NULL, 
	detail JSON NOT NULL, 
	PRIMARY KEY (number)
);
CREATE TABLE counters (
	name VARCHAR(32) NOT NULL, 
	value INTEGER NOT NULL, 
	PRIMARY KEY (name)
);
INSERT INTO "counters" VALUES('bytes',924132);
INSERT INTO "counters" VALUES('revision',83);
INSERT INTO "counters" VALUES('job',5);
INSERT INTO "counters" VALUES('worker',1);
CREATE TABLE endpoints (
	id VARCHAR(128) NOT NULL, 
	name VARCHAR(200) NOT NULL, 
	kind VARCHAR(16) NOT NULL, 
	url TEXT NOT NULL, 
	username TEXT NOT NULL, 
	secret BLOB, 
	secret_ref TEXT, 
	thumbprint VARCHAR(128), 
	insecure BOOLEAN NOT NULL, 
	datacenter TEXT, 
	is_default BOOLEAN NOT NULL, 
	created_at DOUBLE NOT NULL, 
	revision INTEGER NOT NULL, 
	PRIMARY KEY (id), 
	UNIQUE (name)
);
CREATE TABLE idempotency (
	"key" VARCHAR(300) NOT NULL, 
	request VARCHAR(64) NOT NULL, 
	status INTEGER, 
	answer BLOB, 
	at DOUBLE NOT NULL, taken_at DOUBLE, 
	PRIMARY KEY ("key")
);
CREATE TABLE job_log (
	job_id VARCHAR(128) NOT NULL, 
	start INTEGER NOT NULL, 
	data BLOB NOT NULL, 
	PRIMARY KEY (job_id, start), 
	FOREIGN KEY(job_id) REFERENCES jobs (id) ON DELETE CASCADE
);
INSERT INTO "job_log" VALUES('job-5b6e28771fb8',0,X'323032362D31312D33305430383A30323A34372E3037392B30303A303020617474656D70742031206F6E207738343463353262393935616231393431202865706F63682031290A323032362D31312D33305430383A30323A34372E3532332B30303A30302061742074686520736F757263653A20686F6C6420616E206578706F7274206C6561736520286E6F20706F7765722D6F6E20616E64206E6F206D6967726174696F6E206D65616E7768696C65290A');
INSERT INTO "job_log" VALUES('job-22418c27b8f9',0,X'323032362D31312D33305430383A30323A34372E3131332B30303A303020617474656D70742031206F6E207738343463353262393935616231393431202865706F63682031290A323032362D31312D33305430383A30323A34372E3539302B30303A30302061742074686520736F757263653A20686F6C6420616E206578706F7274206C6561736520286E6F20706F7765722D6F6E20616E64206E6F206D6967726174696F6E206D65616E7768696C65290A');
INSERT INTO "job_log" VALUES('job-5b6e28771fb8',178,X'323032362D31312D33305430383A30323A34382E3035362B30303A3030207765622D343A207472616E7366657272696E670A323032362D31312D33305430383A30323A34382E3035362B30303A30302048617264206469736B20313A207472616E7366657272696E670A323032362D31312D33305430383A30323A34382E3035362B30303A30302048617264206469736B20323A207175657565640A');
INSERT INTO "job_log" VALUES('job-22418c27b8f9',178,X'323032362D31312D33305430383A30323A34382E3039352B30303A3030207765622D333A207472616E7366657272696E670A323032362D31312D33305430383A30323A34382E3039352B30303A30302048617264206469736B20313A207472616E7366657272696E670A323032362D31312D33305430383A30323A34382E3039352B30303A30302048617264206469736B20323A207175657565640A');
INSERT INTO "job_log" VALUES('job-5b6e28771fb8',334,X'323032362D31312D33305430383A30323A35332E3039302B30303A30302048617264206469736B20313A20646F6E652C2039342E35204B69422072656365697665640A323032362D31312D33305430383A30323A35332E3039302B30303A30302048617264206469736B20323A207472616E7366657272696E670A');
INSERT INTO "job_log" VALUES('job-22418c27b8f9',334,X'323032362D31312D33305430383A30323A35332E3135342B30303A30302048617264206469736B20313A20646F6E652C2039342E35204B69422072656365697665640A323032362D31312D33305430383A30323A35332E3135342B30303A30302048617264206469736B20323A207472616E7366657272696E670A');
INSERT INTO "job_log" VALUES('job-5b6e28771fb8',457,X'323032362D31312D33305430383A30323A35392E3633392B30303A3030207765622D343A206661696C65640A323032362D31312D33305430383A30323A35392E3633392B30303A30302048617264206469736B20323A2074686520626C6F636B206174206775657374206F666673657420302069732064616D616765643A204572726F72202D3620496E636F727265637420636865636B73756D20666F756E640A323032362D31312D33305430383A30323A35392E3633392B30303A30302048617264206469736B20323A206661696C65642C203133322E30204B69422072656365697665640A323032362D31312D33305430383A30323A35392E3634322B30303A3030206572726F723A2048617264206469736B20323A2074686520626C6F636B206174206775657374206F666673657420302069732064616D616765643A204572726F72202D3620496E636F727265637420636865636B73756D20666F756E640A');
INSERT INTO "job_log" VALUES('job-22418c27b8f9',457,X'323032362D31312D33305430383A30333A30302E3036352B30303A3030207765622D333A2063616E63656C6C65640A323032362D31312D33305430383A30333A30302E3036352B30303A30302073746F707065643A207061757365640A323032362D31312D33305430383A30333A30302E3036352B30303A30302048617264206469736B20323A2063616E63656C6C65642C203133322E30204B69422072656365697665640A323032362D31312D33305430383A30333A30302E3039302B30303A303020706175736564206174206120636865636B706F696E740A');
INSERT INTO "job_log" VALUES('job-9d6ac231e42c',0,X'323032362D31312D33305430383A30333A30312E3939392B30303A303020617474656D70742031206F6E207738343463353262393935616231393431202865706F63682031290A323032362D31312D33305430383A30333A30322E3235362B30303A30302061742074686520736F757263653A20656A6563742049534F20696D616765733B20707574207468656D206261636B2061742074686520656E640A323032362D31312D33305430383A30333A30322E3235362B30303A30302061742074686520736F757263653A20686F6C6420616E206578706F7274206C6561736520286E6F20706F7765722D6F6E20616E64206E6F206D6967726174696F6E206D65616E7768696C65290A');
INSERT INTO "job_log" VALUES('job-d956a84f3cca',0,X'323032362D31312D33305430383A30333A30322E3033362B30303A303020617474656D70742031206F6E207738343463353262393935616231393431202865706F63682031290A323032362D31312D33305430383A30333A30322E3330362B30303A30302061742074686520736F757263653A206D616B6520612074656D706F7261727920736E617073686F743B2072656D6F76652069742061742074686520656E640A323032362D31312D33305430383A30333A30322E3330362B30303A30302061742074686520736F757263653A20686F6C6420616E206578706F7274206C6561736520286E6F20706F7765722D6F6E20616E64206E6F206D6967726174696F6E206D65616E7768696C65290A');
INSERT INTO "job_log" VALUES('job-9d6ac231e42c',266,X'323032362D31312D33305430383A30333A30322E3735382B30303A3030207765622D303A20707265706172696E670A323032362D31312D33305430383A30333A30322E3735382B30303A30302077616974696E6720666F7220746865206578706F7274206C656173650A323032362D31312D33305430383A30333A30322E3735382B30303A30302048617264206469736B20313A207175657565640A323032362D31312D33305430383A30333A30322E3735382B30303A30302048617264206469736B20323A207175657565640A323032362D31312D33305430383A30333A30332E3235392B30303A3030207765622D303A207472616E7366657272696E670A323032362D31312D33305430383A30333A30332E3235392B30303A30302048617264206469736B20313A207472616E7366657272696E670A');
INSERT INTO "job_log" VALUES('job-d956a84f3cca',271,X'323032362D31312D33305430383A30333A30322E3832392B30303A3030207765622D313A20707265706172696E670A323032362D31312D33305430383A30333A30322E3832392B30303A30302077616974696E6720666F7220746865206578706F7274206C656173650A323032362D31312D33305430383A30333A30322E3832392B30303A30302048617264206469736B20313A207175657565640A323032362D31312D33305430383A30333A30322E3832392B30303A30302048617264206469736B20323A207175657565640A323032362D31312D33305430383A30333A30332E3335342B30303A3030207765622D313A207472616E7366657272696E670A323032362D31312D33305430383A30333A30332E3335342B30303A30302048617264206469736B20313A207472616E7366657272696E670A');
INSERT INTO "job_log" VALUES('job-9d6ac231e42c',578,X'323032362D31312D33305430383A30333A30392E3835392B30303A30302048617264206469736B20313A20766572696679696E672C203133332E35204B69422072656365697665640A');
INSERT INTO "job_log" VALUES('job-d956a84f3cca',583,X'323032362D31312D33305430383A30333A30392E3434312B30303A30302048617264206469736B20313A20646F6E652C203131362E30204B69422072656365697665640A323032362D31312D33305430383A30333A30392E3434312B30303A30302048617264206469736B20323A207472616E7366657272696E670A');
INSERT INTO "job_log" VALUES('job-9d6ac231e42c',651,X'323032362D31312D33305430383A30333A31302E3335392B30303A30302048617264206469736B20313A20646F6E652C203133332E35204B69422072656365697665640A323032362D31312D33305430383A30333A31302E3335392B30303A30302048617264206469736B20323A207472616E7366657272696E670A');
CREATE TABLE jobs (
	id VARCHAR(128) NOT NULL, 
	number INTEGER NOT NULL, 
	name TEXT NOT NULL, 
	vm_path TEXT NOT NULL, 
	output_path TEXT NOT NULL, 
	format VARCHAR(16) NOT NULL, 
	definition JSON NOT NULL, 
	digest VARCHAR(64) NOT NULL, 
	endpoint_id VARCHAR(128), 
	secret BLOB, 
	site TEXT NOT NULL, 
	root_id VARCHAR(128) NOT NULL, 
	priority INTEGER NOT NULL, 
	owner VARCHAR(128), 
	state VARCHAR(16) NOT NULL, 
	request VARCHAR(16), 
	keep_partial BOOLEAN NOT NULL, 
	discard BOOLEAN NOT NULL, 
	attempt INTEGER NOT NULL, 
	enqueued INTEGER NOT NULL, 
	epoch INTEGER NOT NULL, 
	worker_id VARCHAR(128), 
	waiting VARCHAR(64), 
	progress JSON NOT NULL, 
	result JSON, 
	error JSON, 
	created_at DOUBLE NOT NULL, 
	created_revision INTEGER NOT NULL, 
	started_at DOUBLE, 
	completed_at DOUBLE, 
	updated_at DOUBLE NOT NULL, 
	revision INTEGER NOT NULL, source_changes INTEGER DEFAULT '0' NOT NULL, 
	PRIMARY KEY (id), 
	UNIQUE (number)
);
INSERT INTO "jobs" VALUES('job-5b6e28771fb8',1,'web-4','web-4','@FOLDER@/exports/web-4','qcow2','{"vm_path": "web-4", "output_path": "@FOLDER@/exports/web-4", "format": "qcow2", "options": {"parallel_downloads": 1}}','b1b44bbc99c4d067f071f0680ae4a9f190be120062c3ec387efc70195c7ac047',NULL,NULL,'@SERVER@','f8d210862720b4d3432dfa9d9bc1a8f7',0,NULL,'failed',NULL,0,0,1,1,1,NULL,NULL,'{"phase": "failed", "current_file": "", "current_step": "failed", "files_downloaded": 1, "total_files": 2, "bytes_downloaded": 231929, "bytes_transferred": 65536, "total_bytes": 327680, "percent_complete": 53.6, "estimated_remaining": 0, "export_method": "auto", "rate_bytes_s": null, "eta_s": null, "lease_age_s": null, "note": "", "stalled": null, "disks": [{"label": "Hard disk 1", "file": "web-4-disk1.qcow2", "phase": "done", "capacity_bytes": 65536, "bytes_downloaded": 96768, "bytes_written": 65536, "bytes_skipped": 0, "bytes_again": 0, "percent_complete": 100.0, "basis": "allocated bytes", "rate_bytes_s": null, "eta_s": null, "bottleneck": null, "attempt": 1, "note": ""}, {"label": "Hard disk 2", "file": "web-4-disk2.qcow2", "phase": "failed", "capacity_bytes": 262144, "bytes_downloaded": 135161, "bytes_written": 0, "bytes_skipped": 0, "bytes_again": 0, "percent_complete": 22.7, "basis": "allocated bytes", "rate_bytes_s": null, "eta_s": null, "bottleneck": null, "attempt": 1, "note": ""}]}','null','{"code": "corrupt_grain", "message": "Hard disk 2: the block at guest offset 0 is damaged: Error -6 Incorrect checksum found", "cause": "A compressed block fails its own checksum.", "next_step": "`hyperctl retry ID` goes on from there; if it repeats at the same offset, the source disk is damaged.", "exit_status": 8, "offset": 0}',@T-31.627@,1,@T-29.655@,@T-17.063@,@T-17.063@,38,0);
INSERT INTO "jobs" VALUES('job-22418c27b8f9',2,'web-3','web-3','@FOLDER@/exports/web-3','qcow2','{"vm_path": "web-3", "output_path": "@FOLDER@/exports/web-3", "format": "qcow2", "options": {"parallel_downloads": 1}}','132183d8e24aace8337d447550422ab96c4908817d0e30cfd9f499bb915312aa',NULL,NULL,'@SERVER@','f8d210862720b4d3432dfa9d9bc1a8f7',0,NULL,'paused',NULL,0,0,1,1,1,NULL,NULL,'{"phase": "paused", "current_file": "", "current_step": "paused", "files_downloaded": 1, "total_files": 2, "bytes_downloaded": 231929, "bytes_transferred": 131072, "total_bytes": 327680, "percent_complete": 53.6, "estimated_remaining": 0, "export_method": "auto", "rate_bytes_s": null, "eta_s": null, "lease_age_s": null, "note": "", "stalled": null, "disks": [{"label": "Hard disk 1", "file": "web-3-disk1.qcow2", "phase": "done", "capacity_bytes": 65536, "bytes_downloaded": 96768, "bytes_written": 65536, "bytes_skipped": 0, "bytes_again": 0, "percent_complete": 100.0, "basis": "allocated bytes", "rate_bytes_s": null, "eta_s": null, "bottleneck": null, "attempt": 1, "note": ""}, {"label": "Hard disk 2", "file": "web-3-disk2.qcow2", "phase": "cancelled", "capacity_bytes": 262144, "bytes_downloaded": 135161, "bytes_written": 65536, "bytes_skipped": 0, "bytes_again": 0, "percent_complete": 22.7, "basis": "allocated bytes", "rate_bytes_s": null, "eta_s": null, "bottleneck": null, "attempt": 1, "note": ""}]}','null','null',@T-31.627@,2,@T-29.648@,NULL,@T-16.523@,42,0);
INSERT INTO "jobs" VALUES('job-9d6ac231e42c',3,'web-0','web-0','@FOLDER@/exports/web-0','qcow2','{"vm_path": "web-0", "output_path": "@FOLDER@/exports/web-0", "format": "qcow2", "options": {"parallel_downloads": 1, "remove_cdrom": true}}','992cb138c98c399e0cfe4639f6e28743575af1589731cbe355f71f8600935395',NULL,NULL,'@SERVER@','f8d210862720b4d3432dfa9d9bc1a8f7',0,NULL,'running',NULL,0,0,1,1,1,'w844c52b995ab1941',NULL,'{"phase": "transferring", "current_file": "web-0-disk2.qcow2", "current_step": "transferring", "files_downloaded": 1, "total_files": 2, "bytes_downloaded": 206329, "bytes_transferred": 65536, "total_bytes": 327680, "percent_complete": 40.0, "estimated_remaining": 0, "export_method": "auto", "rate_bytes_s": 12578.1, "eta_s": null, "lease_age_s": 13.1, "note": "", "stalled": null, "disks": [{"label": "Hard disk 1", "file": "web-0-disk1.qcow2", "phase": "done", "capacity_bytes": 65536, "bytes_downloaded": 136704, "bytes_written": 65536, "bytes_skipped": 0, "bytes_again": 0, "percent_complete": 100.0, "basis": "allocated bytes", "rate_bytes_s": 0.0, "eta_s": null, "bottleneck": null, "attempt": 1, "note": ""}, {"label": "Hard disk 2", "file": "web-0-disk2.qcow2", "phase": "transferring", "capacity_bytes": 262144, "bytes_downloaded": 69625, "bytes_written": 0, "bytes_skipped": 0, "bytes_again": 0, "percent_complete": 0.0, "basis": "allocated bytes", "rate_bytes_s": 12578.1, "eta_s": null, "bottleneck": "source", "attempt": 1, "note": ""}]}','null','null',@T-16.454@,43,@T-14.730@,NULL,@T-0.497@,82,2);
INSERT INTO "jobs" VALUES('job-d956a84f3cca',4,'web-1','web-1','@FOLDER@/exports/web-1','qcow2','{"vm_path": "web-1", "output_path": "@FOLDER@/exports/web-1", "format": "qcow2", "options": {"parallel_downloads": 1}}','524d30ed5e03e431d4a3f60c37feefdc4d21cd3200ae12b127db52c163eddee6',NULL,NULL,'@SERVER@','f8d210862720b4d3432dfa9d9bc1a8f7',0,NULL,'running',NULL,0,0,1,1,1,'w844c52b995ab1941',NULL,'{"phase": "transferring", "current_file": "web-1-disk2.qcow2", "current_step": "transferring", "files_downloaded": 1, "total_files": 2, "bytes_downloaded": 253945, "bytes_transferred": 131072, "total_bytes": 327680, "percent_complete": 53.6, "estimated_remaining": 19, "export_method": "auto", "rate_bytes_s": 20609.3, "eta_s": 19.7, "lease_age_s": 13.0, "note": "", "stalled": null, "disks": [{"label": "Hard disk 1", "file": "web-1-disk1.qcow2", "phase": "done", "capacity_bytes": 65536, "bytes_downloaded": 118784, "bytes_written": 65536, "bytes_skipped": 0, "bytes_again": 0, "percent_complete": 100.0, "basis": "allocated bytes", "rate_bytes_s": 0.0, "eta_s": null, "bottleneck": null, "attempt": 1, "note": ""}, {"label": "Hard disk 2", "file": "web-1-disk2.qcow2", "phase": "transferring", "capacity_bytes": 262144, "bytes_downloaded": 135161, "bytes_written": 65536, "bytes_skipped": 0, "bytes_again": 0, "percent_complete": 22.7, "basis": "allocated bytes", "rate_bytes_s": 20609.3, "eta_s": 19.7, "bottleneck": "source", "attempt": 1, "note": ""}]}','null','null',@T-16.454@,44,@T-14.727@,NULL,@T-0.497@,83,2);
INSERT INTO "jobs" VALUES('job-119f98930cab',5,'web-2','web-2','@FOLDER@/exports/web-2','qcow2','{"vm_path": "web-2", "output_path": "@FOLDER@/exports/web-2", "format": "qcow2"}','12b1d887cf7b08c8e4418105617f51b12e92cc29d7c15bb16359fe47669fef20',NULL,NULL,'@SERVER@','f8d210862720b4d3432dfa9d9bc1a8f7',0,NULL,'queued',NULL,0,0,1,0,0,NULL,NULL,'{"phase": "queued", "current_file": "", "current_step": "", "files_downloaded": 0, "total_files": 0, "bytes_downloaded": 0, "bytes_transferred": 0, "total_bytes": 0, "percent_complete": 0.0, "estimated_remaining": 0, "export_method": "", "rate_bytes_s": null, "eta_s": null, "lease_age_s": null, "note": "", "stalled": null, "disks": []}','null','null',@T-14.588@,47,NULL,NULL,@T-14.588@,47,0);
CREATE TABLE logins (
	digest VARCHAR(64) NOT NULL, 
	user_id VARCHAR(128) NOT NULL, 
	csrf VARCHAR(64) NOT NULL, 
	created_at DOUBLE NOT NULL, 
	used_at DOUBLE NOT NULL, 
	expires_at DOUBLE NOT NULL, 
	PRIMARY KEY (digest), 
	FOREIGN KEY(user_id) REFERENCES users (id) ON DELETE CASCADE
);
CREATE TABLE meta (
	name VARCHAR(64) NOT NULL, 
	value TEXT NOT NULL, 
	PRIMARY KEY (name)
);
INSERT INTO "meta" VALUES('vault_key','cb3de0fe0be12b1b');
INSERT INTO "meta" VALUES('engine','3.4.0');
CREATE TABLE nfc_hosts (
	site VARCHAR(300) NOT NULL, 
	host VARCHAR(300) NOT NULL, 
	allowed INTEGER NOT NULL, 
	quiet_since DOUBLE NOT NULL, 
	refused_at DOUBLE NOT NULL, 
	PRIMARY KEY (site, host)
);
INSERT INTO "nfc_hosts" VALUES('@SERVER@','127.0.0.2',8,@T-29.034@,@T-34.034@);
CREATE TABLE nfc_streams (
	id VARCHAR(40) NOT NULL, 
	site VARCHAR(300) NOT NULL, 
	host VARCHAR(300) NOT NULL, 
	worker_id VARCHAR(128) NOT NULL, 
	expires DOUBLE NOT NULL, 
	PRIMARY KEY (id)
);
INSERT INTO "nfc_streams" VALUES('5a60b2d9aa2f17bc402a03ef7d3d3498','@SERVER@','127.0.0.2','w844c52b995ab1941',@T+82.549@);
INSERT INTO "nfc_streams" VALUES('7530a21a87eb794e22f435538871141f','@SERVER@','127.0.0.2','w844c52b995ab1941',@T+83.253@);
CREATE TABLE removed (
	revision INTEGER NOT NULL, 
	topic VARCHAR(32) NOT NULL, 
	id VARCHAR(128) NOT NULL, 
	at DOUBLE NOT NULL, 
	PRIMARY KEY (revision)
);
CREATE TABLE runs (
	job_id VARCHAR(128) NOT NULL, 
	record TEXT NOT NULL, 
	updated_at DOUBLE NOT NULL, 
	PRIMARY KEY (job_id), 
	FOREIGN KEY(job_id) REFERENCES jobs (id) ON DELETE CASCADE
);
INSERT INTO "runs" VALUES('job-5b6e28771fb8','{
 "run_id": "20261130-080247-409942",
 "endpoint": "administrator@vsphere.local@@SERVER@",
 "moref": "vm-5",
 "machine": "web-4",
 "format": "qcow2",
 "compress": "none",
 "started_at": "@I-30@",
 "point": {
  "kind": "off",
  "instance": "e0533ad9-b74c-493d-a819-7e0f5b979a84",
  "snapshot": null,
  "change_version": "@CHANGED:web-4@",
  "boot_time": null,
  "disks": [
   {
    "key": 2000,
    "file": "[nvme-prod-01] web-4/web-4.vmdk",
    "capacity_bytes": 65536,
    "change_id": null
   },
   {
    "key": 2001,
    "file": "[nvme-prod-01] web-4/web-4_1.vmdk",
    "capacity_bytes": 262144,
    "change_id": null
   }
  ]
 },
 "disks": [
  {
   "key": 2000,
   "label": "Hard disk 1",
   "file_name": "web-4-disk1.qcow2",
   "capacity_bytes": 65536,
   "receipt": {
    "label": "Hard disk 1",
    "capacity_bytes": 65536,
    "content": "4364d100601e7209aac3334e03d62cd2b46809427f99a089be6da3f2fdf59a4c",
    "stream": {
     "sha256": "def03ff9160cc6f192db46b78c00284cad226a0699a37531076ee98d4c3087b9",
     "sha1": null,
     "length_bytes": 96768
    },
    "wire_bytes": 96768,
    "written_bytes": 65536,
    "data_bytes": 65536,
    "blocks_written": 1,
    "blocks_skipped": 0,
    "blocks_zero": 0,
    "attempts": 1,
    "elapsed_s": 4.936762045999785,
    "route": "127.0.0.2:443",
    "blocks_damaged": 0
   },
   "sha256": "fccb9c608d23c4979cba3db69666ab9789d51cf671f5412da542fd36becbc614",
   "size_bytes": 393216,
   "start": null,
   "lease_key": "/vm-5/ParaVirtualSCSIController0:0",
   "ovf_disk_id": null
  },
  {
   "key": 2001,
   "label": "Hard disk 2",
   "file_name": "web-4-disk2.qcow2",
   "capacity_bytes": 262144,
   "receipt": null,
   "sha256": null,
   "size_bytes": null,
   "start": null,
   "lease_key": "/vm-5/ParaVirtualSCSIController0:1",
   "ovf_disk_id": null
  }
 ],
 "changes": [
  {
   "kind": "lease",
   "data": {
    "session_key": "cea9ab65-2e24-4033-926f-46ee10813af0",
    "lease_moref": "",
    "task_moref": null,
    "opened_at": "@I-30@",
    "machine_moref": "vm-5"
   },
   "made": true,
   "undone": true
  },
  {
   "kind": "lease",
   "data": {
    "session_key": "cea9ab65-2e24-4033-926f-46ee10813af0",
    "lease_moref": "session[cea9ab65-2e24-4033-926f-46ee10813af0]lease-1",
    "task_moref": "task-1",
    "opened_at": "@I-30@",
    "machine_moref": "vm-5"
   },
   "made": true,
   "undone": true
  }
 ],
 "method": null,
 "proof": null,
 "descriptor": null,
 "published": false,
 "lane": "",
 "source": "auto",
 "exclude_disks": [],
 "state": "auto",
 "from_snapshot": null,
 "remove_cdrom": false,
 "quiesce": true,
 "file_hash": true,
 "version": 1,
 "checksum": "5f024e061b9161bfc26df13b9cdee5c16fd3c42fc539e6ed1563198b46b5538b"
}',@T-17.109@);
INSERT INTO "runs" VALUES('job-22418c27b8f9','{
 "run_id": "20261130-080247-eca7bb",
 "endpoint": "administrator@vsphere.local@@SERVER@",
 "moref": "vm-4",
 "machine": "web-3",
 "format": "qcow2",
 "compress": "none",
 "started_at": "@I-30@",
 "point": {
  "kind": "off",
  "instance": "3da082d2-6186-48dd-8b56-33b4bfbfbdd1",
  "snapshot": null,
  "change_version": "@CHANGED:web-3@",
  "boot_time": null,
  "disks": [
   {
    "key": 2000,
    "file": "[nvme-prod-01] web-3/web-3.vmdk",
    "capacity_bytes": 65536,
    "change_id": null
   },
   {
    "key": 2001,
    "file": "[nvme-prod-01] web-3/web-3_1.vmdk",
    "capacity_bytes": 262144,
    "change_id": null
   }
  ]
 },
 "disks": [
  {
   "key": 2000,
   "label": "Hard disk 1",
   "file_name": "web-3-disk1.qcow2",
   "capacity_bytes": 65536,
   "receipt": {
    "label": "Hard disk 1",
    "capacity_bytes": 65536,
    "content": "24da0f37d168608e082bad1e2d53c918d31aec98cf3f662a3b28a5b74c150923",
    "stream": {
     "sha256": "dabecceb8d81553eec8bbc9537c44deb5a5eac0a39de28bb7bd02bf819143271",
     "sha1": null,
     "length_bytes": 96768
    },
    "wire_bytes": 96768,
    "written_bytes": 65536,
    "data_bytes": 65536,
    "blocks_written": 1,
    "blocks_skipped": 0,
    "blocks_zero": 0,
    "attempts": 1,
    "elapsed_s": 4.958441315997334,
    "route": "127.0.0.2:443",
    "blocks_damaged": 0
   },
   "sha256": "65eac0d1764990c142508f905e207b3eec4fa3fb23afdc29fe972e093aab4ff3",
   "size_bytes": 393216,
   "start": null,
   "lease_key": "/vm-4/ParaVirtualSCSIController0:0",
   "ovf_disk_id": null
  },
  {
   "key": 2001,
   "label": "Hard disk 2",
   "file_name": "web-3-disk2.qcow2",
   "capacity_bytes": 262144,
   "receipt": null,
   "sha256": null,
   "size_bytes": null,
   "start": null,
   "lease_key": "/vm-4/ParaVirtualSCSIController0:1",
   "ovf_disk_id": null
  }
 ],
 "changes": [
  {
   "kind": "lease",
   "data": {
    "session_key": "91929a65-c1e0-4b3c-9b1a-45def7db5176",
    "lease_moref": "",
    "task_moref": null,
    "opened_at": "@I-30@",
    "machine_moref": "vm-4"
   },
   "made": true,
   "undone": true
  },
  {
   "kind": "lease",
   "data": {
    "session_key": "91929a65-c1e0-4b3c-9b1a-45def7db5176",
    "lease_moref": "session[91929a65-c1e0-4b3c-9b1a-45def7db5176]lease-2",
    "task_moref": "task-2",
    "opened_at": "@I-30@",
    "machine_moref": "vm-4"
   },
   "made": true,
   "undone": true
  }
 ],
 "method": null,
 "proof": null,
 "descriptor": null,
 "published": false,
 "lane": "",
 "source": "auto",
 "exclude_disks": [],
 "state": "auto",
 "from_snapshot": null,
 "remove_cdrom": false,
 "quiesce": true,
 "file_hash": true,
 "version": 1,
 "checksum": "e7ac6d419b074a768b3b8a9d8f983d0d6a41d121ef1b76361039e92b7f7ccc98"
}',@T-16.685@);
INSERT INTO "runs" VALUES('job-9d6ac231e42c','{
 "run_id": "20261130-080302-538828",
 "endpoint": "administrator@vsphere.local@@SERVER@",
 "moref": "vm-1",
 "machine": "web-0",
 "format": "qcow2",
 "compress": "none",
 "started_at": "@I-15@",
 "point": {
  "kind": "off",
  "instance": "e72cd002-658f-4cac-b089-be1c941e0113",
  "snapshot": null,
  "change_version": "@CHANGED:web-0@",
  "boot_time": null,
  "disks": [
   {
    "key": 2000,
    "file": "[nvme-prod-01] web-0/web-0.vmdk",
    "capacity_bytes": 65536,
    "change_id": null
   },
   {
    "key": 2001,
    "file": "[nvme-prod-01] web-0/web-0_1.vmdk",
    "capacity_bytes": 262144,
    "change_id": null
   }
  ]
 },
 "disks": [
  {
   "key": 2000,
   "label": "Hard disk 1",
   "file_name": "web-0-disk1.qcow2",
   "capacity_bytes": 65536,
   "receipt": {
    "label": "Hard disk 1",
    "capacity_bytes": 65536,
    "content": "2fb441bde1ec7a25846e602208e90ce8d466f5635d6f6eb49f1376dc6e3b976c",
    "stream": {
     "sha256": "570d21a412ce5fc045a4c8bd53ab86e7c85e1d8dbcbf3a059f3197ea0e590403",
     "sha1": null,
     "length_bytes": 136704
    },
    "wire_bytes": 136704,
    "written_bytes": 65536,
    "data_bytes": 65536,
    "blocks_written": 1,
    "blocks_skipped": 0,
    "blocks_zero": 0,
    "attempts": 1,
    "elapsed_s": 6.89004665900211,
    "route": "127.0.0.2:443",
    "blocks_damaged": 0
   },
   "sha256": "5151c4ccabd45e37dc0cf77dfbccf7c03dd0042699fa14a122fb1e017fe73b03",
   "size_bytes": 393216,
   "start": null,
   "lease_key": "/vm-1/ParaVirtualSCSIController0:0",
   "ovf_disk_id": null
  },
  {
   "key": 2001,
   "label": "Hard disk 2",
   "file_name": "web-0-disk2.qcow2",
   "capacity_bytes": 262144,
   "receipt": null,
   "sha256": null,
   "size_bytes": null,
   "start": null,
   "lease_key": "/vm-1/ParaVirtualSCSIController0:1",
   "ovf_disk_id": null
  }
 ],
 "changes": [
  {
   "kind": "cdrom",
   "data": {
    "drives": [
     {
      "key": 3000,
      "label": "CD/DVD drive 1",
      "iso": "[iso-library] debian-12.iso",
      "datastore": "datastore-4",
      "backing_object": null,
      "connected": false,
      "start_connected": true,
      "allow_guest_control": true,
      "migrate_connect": null
     }
    ]
   },
   "made": true,
   "undone": false
  },
  {
   "kind": "lease",
   "data": {
    "session_key": "cb423447-bbea-49dd-9dee-901f31754247",
    "lease_moref": "",
    "task_moref": null,
    "opened_at": "@I-15@",
    "machine_moref": "vm-1"
   },
   "made": true,
   "undone": true
  },
  {
   "kind": "lease",
   "data": {
    "session_key": "cb423447-bbea-49dd-9dee-901f31754247",
    "lease_moref": "session[cb423447-bbea-49dd-9dee-901f31754247]lease-3",
    "task_moref": "task-5",
    "opened_at": "@I-15@",
    "machine_moref": "vm-1"
   },
   "made": true,
   "undone": false
  }
 ],
 "method": null,
 "proof": null,
 "descriptor": null,
 "published": false,
 "lane": "",
 "source": "auto",
 "exclude_disks": [],
 "state": "auto",
 "from_snapshot": null,
 "remove_cdrom": true,
 "quiesce": true,
 "file_hash": true,
 "version": 1,
 "checksum": "52cbbd2cbdceaeba306549719f879a84e568f9328b075b8f6931cecd3e54131d"
}',@T-6.833@);
INSERT INTO "runs" VALUES('job-d956a84f3cca','{
 "run_id": "20261130-080302-023cbb",
 "endpoint": "administrator@vsphere.local@@SERVER@",
 "moref": "vm-2",
 "machine": "web-1",
 "format": "qcow2",
 "compress": "none",
 "started_at": "@I-15@",
 "point": {
  "kind": "snapshot",
  "instance": "36e57bda-c9f7-47ad-854c-179c6d7c9d38",
  "snapshot": "snapshot-1",
  "change_version": "@CHANGED:web-1@",
  "boot_time": "@BOOTED:web-1@",
  "disks": [
   {
    "key": 2000,
    "file": "[nvme-prod-01] web-1/web-1.vmdk",
    "capacity_bytes": 65536,
    "change_id": null
   },
   {
    "key": 2001,
    "file": "[nvme-prod-01] web-1/web-1_1.vmdk",
    "capacity_bytes": 262144,
    "change_id": null
   }
  ]
 },
 "disks": [
  {
   "key": 2000,
   "label": "Hard disk 1",
   "file_name": "web-1-disk1.qcow2",
   "capacity_bytes": 65536,
   "receipt": {
    "label": "Hard disk 1",
    "capacity_bytes": 65536,
    "content": "d28489df28fba36bb0383cc8067766be20a897cee62631614f7a684ad86c8220",
    "stream": {
     "sha256": "878cf65f201c3b46a803cf69e8d612beb0cfc91a258702176aefe61599752a6f",
     "sha1": null,
     "length_bytes": 118784
    },
    "wire_bytes": 118784,
    "written_bytes": 65536,
    "data_bytes": 65536,
    "blocks_written": 1,
    "blocks_skipped": 0,
    "blocks_zero": 0,
    "attempts": 1,
    "elapsed_s": 6.061281745998713,
    "route": "127.0.0.2:443",
    "blocks_damaged": 0
   },
   "sha256": "85bf3f7639f93fecac25b15efe76f666cb4e54c589dc990d4c41221f71cfb4a4",
   "size_bytes": 393216,
   "start": null,
   "lease_key": "/vm-2/ParaVirtualSCSIController0:0",
   "ovf_disk_id": null
  },
  {
   "key": 2001,
   "label": "Hard disk 2",
   "file_name": "web-1-disk2.qcow2",
   "capacity_bytes": 262144,
   "receipt": null,
   "sha256": null,
   "size_bytes": null,
   "start": null,
   "lease_key": "/vm-2/ParaVirtualSCSIController0:1",
   "ovf_disk_id": null
  }
 ],
 "changes": [
  {
   "kind": "snapshot",
   "data": {
    "name": "hypersdk-20261130-080302-023cbb",
    "moref": "snapshot-1"
   },
   "made": true,
   "undone": false
  },
  {
   "kind": "lease",
   "data": {
    "session_key": "8bc41e0b-47e3-4f62-81d5-f2713daf10ff",
    "lease_moref": "",
    "task_moref": null,
    "opened_at": "@I-15@",
    "machine_moref": "vm-2"
   },
   "made": true,
   "undone": true
  },
  {
   "kind": "lease",
   "data": {
    "session_key": "8bc41e0b-47e3-4f62-81d5-f2713daf10ff",
    "lease_moref": "session[8bc41e0b-47e3-4f62-81d5-f2713daf10ff]lease-4",
    "task_moref": "task-6",
    "opened_at": "@I-15@",
    "machine_moref": "vm-2"
   },
   "made": true,
   "undone": false
  }
 ],
 "method": null,
 "proof": null,
 "descriptor": null,
 "published": false,
 "lane": "",
 "source": "auto",
 "exclude_disks": [],
 "state": "auto",
 "from_snapshot": null,
 "remove_cdrom": false,
 "quiesce": true,
 "file_hash": true,
 "version": 1,
 "checksum": "11f0b2a1f6f469e092e52de09c2033afb19c9b97c22969784f0249f3a3b1d4e7"
}',@T-7.490@);
CREATE TABLE samples (
	minute INTEGER NOT NULL, 
	rate_bytes_s DOUBLE NOT NULL, 
	submitted INTEGER NOT NULL, 
	queued INTEGER NOT NULL, 
	running INTEGER NOT NULL, 
	paused INTEGER NOT NULL, 
	completed INTEGER NOT NULL, 
	failed INTEGER NOT NULL, 
	cancelled INTEGER NOT NULL, 
	workers INTEGER NOT NULL, 
	streams INTEGER NOT NULL, 
	PRIMARY KEY (minute)
);
CREATE TABLE users (
	id VARCHAR(128) NOT NULL, 
	name VARCHAR(128) NOT NULL, 
	role VARCHAR(16) NOT NULL, 
	password TEXT, 
	disabled BOOLEAN NOT NULL, 
	failures INTEGER NOT NULL, 
	locked_until DOUBLE, 
	created_at DOUBLE NOT NULL, 
	PRIMARY KEY (id), 
	UNIQUE (name)
);
CREATE TABLE workers (
	id VARCHAR(128) NOT NULL, 
	host TEXT NOT NULL, 
	pid INTEGER NOT NULL, 
	version VARCHAR(32) NOT NULL, 
	roots JSON NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	epoch INTEGER NOT NULL, 
	started_at DOUBLE NOT NULL, 
	beat DOUBLE NOT NULL, 
	PRIMARY KEY (id)
);
INSERT INTO "workers" VALUES('w844c52b995ab1941','earlier.example.com',1,'0.1.0','["f8d210862720b4d3432dfa9d9bc1a8f7"]','alive',1,@T-32.000@,@T-1.603@);
CREATE INDEX ix_audit_at ON audit (at);
CREATE INDEX ix_endpoints_revision ON endpoints (revision);
CREATE INDEX ix_idempotency_at ON idempotency (at);
CREATE INDEX ix_jobs_revision ON jobs (revision);
CREATE INDEX jobs_by_state ON jobs (state, number);
CREATE INDEX nfc_streams_by_host ON nfc_streams (site, host);
CREATE INDEX ix_api_tokens_user_id ON api_tokens (user_id);
CREATE INDEX ix_logins_user_id ON logins (user_id);
COMMIT;
