#!/bin/sh
# Runs once, when PostgreSQL makes its data folder: the owner (migrations) and the service (daily work, no more rights
# than the migrations grant it). Passwords come from files and reach neither a command line nor the server's log.
set -eu
OWNER_PASSWORD=$(cat /run/secrets/owner_password)
SERVICE_PASSWORD=$(cat /run/secrets/service_password)
export OWNER_PASSWORD SERVICE_PASSWORD
psql --no-psqlrc --set ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname postgres <<'SQL'
\getenv owner_password OWNER_PASSWORD
\getenv service_password SERVICE_PASSWORD
SET log_statement = 'none';
SET log_min_error_statement = 'panic';
CREATE ROLE talktime_owner LOGIN PASSWORD :'owner_password';
CREATE ROLE talktime_service LOGIN PASSWORD :'service_password';
CREATE DATABASE talktime OWNER talktime_owner ENCODING 'UTF8' TEMPLATE template0;
REVOKE ALL ON DATABASE talktime FROM PUBLIC;
GRANT CONNECT ON DATABASE talktime TO talktime_service;
\connect talktime
ALTER SCHEMA public OWNER TO talktime_owner;
REVOKE ALL ON SCHEMA public FROM PUBLIC;
GRANT USAGE ON SCHEMA public TO talktime_service;
SQL
