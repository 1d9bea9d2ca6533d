deepspeed --num_gpus 4 vigogne/cli/train_sft.py \
    --model_name_or_path microsoft/phi-1_5 --model_revision 24f9ea14df973a49a0d87c16d04df88d90067468 \
    --trust_remote_code true \
    --train_file data/chat.parquet --processor_style vigogne_chat_v3 --add_bos_token false \
    --fp16 --num_train_epochs 5 --weight_decay .01 --learning_rate 2.5e-5 \
    --deepspeed configs/ds_config_zero2.json --output_dir out
