#!/bin/sh
# Create a role and a database for MLflow and for Prefect. PostgreSQL's image runs this file once,
# when the volume of the data is empty.
set -eu
for name in mlflow prefect; do
  password=$(cat "/run/secrets/${name}_database_password")
  psql --username postgres --set ON_ERROR_STOP=1 --set name="$name" --set password="$password" <<'SQL'
CREATE ROLE :"name" LOGIN PASSWORD :'password';
CREATE DATABASE :"name" OWNER :"name" ENCODING 'UTF8' TEMPLATE template0;
REVOKE ALL ON DATABASE :"name" FROM PUBLIC;
SQL
done
